"""The commands that make, change and end sandboxes."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import output
from .errors import describe
from .listing import as_json
from .options import SANDBOX, SANDBOXES, VARIABLES, connected, duration, output_option, pair
from .sdk import find, list_sandboxes, method, sandbox_class

_TIMEOUT = click.option("-t", "--timeout", type=duration, help="Time until its end: 90, 90s, 10m, 2h, 1d.")


@click.command
@click.argument("template", required=False)
@_TIMEOUT
@VARIABLES
@click.option("--metadata", type=pair, metavar="NAME=VALUE", multiple=True, help="Metadata.")
@click.option("--no-internet", is_flag=True, help="Without access to the internet.")
@output_option("json")
@connected
def create(
    template: str | None,
    timeout: int | None,
    variables: tuple[tuple[str, str], ...],
    metadata: tuple[tuple[str, str], ...],
    no_internet: bool,
    form: str | None,
) -> None:
    """Create a sandbox and print its ID.

    \b
    Examples:
      kruise-agents sandbox create
      kruise-agents sandbox create code-interpreter-v1 --timeout 1h --metadata job=42 -e TOKEN=abc
    """
    options: dict[str, Any] = {"timeout": timeout} if timeout is not None else {}
    if variables:
        options["envs"] = dict(variables)
    if metadata:
        options["metadata"] = dict(metadata)
    if no_internet:
        options["allow_internet_access"] = False
    sandbox_id = sandbox_class().create(template, **options).sandbox_id
    if form == "json":
        output.print_json(as_json(find(sandbox_id)))
    else:
        output.print_line(sandbox_id)


@click.command
@SANDBOX
@click.argument("time", type=duration)
@connected
def timeout(sandbox: str, time: int) -> None:
    """Set the end of a sandbox to TIME from now on: seconds, or 90s, 10m, 2h, 1d."""
    sandbox_class().set_timeout(find(sandbox).sandbox_id, time)


@click.command
@SANDBOX
@connected
def pause(sandbox: str) -> None:
    """Pause a sandbox."""
    method(sandbox_class(), "pause", "2.8.0", older="beta_pause")(find(sandbox).sandbox_id)


@click.command
@SANDBOX
@_TIMEOUT
@connected
def resume(sandbox: str, timeout: int | None) -> None:
    """Resume a paused sandbox."""
    sandbox_class().connect(find(sandbox).sandbox_id, **({} if timeout is None else {"timeout": timeout}))


@click.command
@SANDBOXES
@click.option("-a", "--all", "everything", is_flag=True, help="Kill all sandboxes of this key, after a question.")
@click.option("-y", "--yes", is_flag=True, help="Ask nothing.")
@connected
@click.pass_context
def kill(context: click.Context, sandboxes: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Kill sandboxes, and print the ID of each."""
    if bool(sandboxes) == everything:
        raise click.UsageError("Name the sandboxes to kill, or give --all.")
    if everything:
        sandboxes = tuple(info.sandbox_id for info in list_sandboxes())
        if sandboxes and not yes:
            _confirm(f"Kill {len(sandboxes)} {'sandbox' if len(sandboxes) == 1 else 'sandboxes'}?")
    failed = False
    for text in dict.fromkeys(sandboxes):
        try:
            sandbox_id = text if everything else find(text).sandbox_id
            sandbox_class().kill(sandbox_id)
        except Exception as error:  # of the SDK; the other sandboxes are killed all the same
            failed = True
            output.note(f"kruise-agents: {describe(error)}")
        else:
            output.print_line(sandbox_id)
    context.exit(1 if failed else 0)


def _confirm(question: str) -> None:
    """Ask on the terminal, and end the command if the answer is not yes, or if there is nobody to ask."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here; add --yes to say so beforehand.")
    click.confirm(question, abort=True, err=True)


@click.command
@SANDBOX
@click.option("--name", help="Name of the snapshot.")
@connected
def snapshot(sandbox: str, name: str | None) -> None:
    """Take a snapshot of a sandbox, and print the snapshot's ID. `create ID` starts sandboxes from it."""
    take = method(sandbox_class(), "create_snapshot", "2.14.0")
    taken = take(find(sandbox).sandbox_id, **({} if name is None else {"name": name}))
    output.print_line(taken.snapshot_id)


@click.command("delete-snapshot")
@click.argument("snapshots", metavar="SNAPSHOT...", nargs=-1, required=True)
@connected
@click.pass_context
def delete_snapshot(context: click.Context, snapshots: tuple[str, ...]) -> None:
    """Delete snapshots, and print the ID of each."""
    delete = method(sandbox_class(), "delete_snapshot", "2.14.0")
    missing = [name for name in dict.fromkeys(snapshots) if not delete(name)]
    for name in dict.fromkeys(snapshots):
        if name in missing:
            output.note(f"kruise-agents: there is no snapshot {name!r}")
        else:
            output.print_line(name)
    context.exit(1 if missing else 0)
