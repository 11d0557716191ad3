"""The command ``kruise-agents sandbox``: sandboxes from a terminal and from scripts, on any manager."""

from __future__ import annotations

import logging
import warnings

import click

from .copying import cp
from .errors import fail
from .execute import exec_command, run
from .lifecycle import create, delete_snapshot, kill, pause, resume, snapshot, timeout
from .listing import info, list_command, ports, snapshots, templates, url
from .logs import logs
from .output import note
from .terminal import shell

__all__ = ["command", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List, make, enter and end sandboxes, and copy files, as docker and kubectl do with containers.

    SANDBOX is the ID of a sandbox, or the beginning of an ID that no other sandbox has.

    The manager is that of E2B_DOMAIN and E2B_API_KEY. Without E2B_DOMAIN, it is the one that `kruise-agents serve`
    runs on this machine.
    """


for _command in (
    *(list_command, create, info, exec_command, shell, run, cp, logs, ports, url, timeout, pause, resume, kill),
    *(snapshot, snapshots, delete_snapshot, templates),
):
    command.add_command(_command)


def main(arguments: list[str]) -> None:
    """Run a subcommand, and end the process with its exit code: 2 for a wrong use, 1 for any other error."""
    logging.getLogger("e2b").addHandler(logging.NullHandler())  # else e2b 2.8.0 logs answers on standard error
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(f"kruise-agents: {message}")
        try:
            command.main(arguments, prog_name="kruise-agents sandbox")
        except Exception as error:  # of the SDK, of its HTTP clients, of the patch: a user is told one line
            fail(error)
