"""The commands that show something: ``list``, ``info``, ``templates``, ``snapshots``, ``ports`` and ``url``."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import click

from . import output
from .errors import SandboxCommandError
from .options import SANDBOX, connected, output_option, pair
from .sdk import PORTS_OF_SERVERS, Info, api_get, enter, find, list_sandboxes, method, sandbox_class, state_of

_LISTENING = "0A"
"""The state of a listening socket in ``/proc/net/tcp`` (``net/tcp_states.h`` of Linux)."""
_SOCKETS = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null || true"


@click.command("list")
@click.option("-q", "--quiet", is_flag=True, help="Show IDs only.")
@click.option("--state", "states", type=click.Choice(["running", "paused"]), multiple=True, help="This state only.")
@click.option("--metadata", type=pair, metavar="NAME=VALUE", multiple=True, help="Sandboxes with this metadata only.")
@output_option("json", "wide")
@connected
def list_command(quiet: bool, states: tuple[str, ...], metadata: tuple[tuple[str, str], ...], form: str | None) -> None:
    """List sandboxes, running and paused.

    \b
    Examples:
      kruise-agents sandbox list
      kruise-agents sandbox list -o json --state paused
      kruise-agents sandbox kill $(kruise-agents sandbox list -q --metadata job=42)
    """
    found = list(list_sandboxes(states, dict(metadata)))
    if quiet:
        for info in found:
            output.print_line(info.sandbox_id)
        return
    if form == "json":
        output.print_json([as_json(info) for info in found])
        return
    columns = ["ID", "TEMPLATE", "STATE", "AGE", "TIME LEFT", "METADATA"]
    rows = [
        [
            info.sandbox_id,
            info.name or info.template_id,
            state_of(info),
            output.age(info.started_at),
            _time_left(info),
            output.metadata_text(info.metadata),
        ]
        for info in found
    ]
    if form == "wide":
        columns += ["CPUS", "MEMORY", "ENVD", "STARTED"]
        for row, info in zip(rows, found, strict=True):
            row += [info.cpu_count, f"{info.memory_mb} MiB", info.envd_version, f"{info.started_at:%Y-%m-%d %H:%M:%S}"]
    output.print_table(columns, rows)


def _time_left(info: Info) -> str:
    """Return how long it takes to the end of a sandbox; ``-`` if it has none.

    For a paused sandbox a manager may name the time of the pause, and for one that never ends the year 1.
    """
    left = output.time_left(info.end_at)
    return "-" if left == "0s" and (state_of(info) == "paused" or info.end_at.year == 1) else left


def as_json(info: Info) -> dict[str, Any]:
    """Return the information about a sandbox, without its tokens."""
    names = ("sandbox_id", "template_id", "name", "started_at", "end_at", "cpu_count", "memory_mb", "envd_version")
    return {
        **{name: getattr(info, name) for name in names},
        "state": state_of(info),
        "metadata": info.metadata,
        "domain": info.sandbox_domain,
    }


def _end(info: Info) -> str:
    left = _time_left(info)
    return left if left == "-" else f"{info.end_at:%Y-%m-%d %H:%M:%S %Z} (in {left})"


@click.command
@SANDBOX
@output_option("json")
@connected
def info(sandbox: str, form: str | None) -> None:
    """Show one sandbox."""
    found = find(sandbox)
    if form == "json":
        output.print_json(as_json(found))
        return
    output.print_fields(
        {
            "ID": found.sandbox_id,
            "Template": found.name or found.template_id,
            "State": state_of(found),
            "Started": f"{found.started_at:%Y-%m-%d %H:%M:%S %Z} ({output.age(found.started_at)} ago)",
            "Ends": _end(found),
            "CPUs": found.cpu_count,
            "Memory": f"{found.memory_mb} MiB",
            "envd": found.envd_version,
            "Domain": found.sandbox_domain,
            "Metadata": output.metadata_text(found.metadata),
        }
    )


@click.command
@output_option("json", "wide")
@connected
def templates(form: str | None) -> None:
    """List the templates from which sandboxes can be made."""
    found = api_get("/templates", "list its templates")
    if not isinstance(found, list) or not all(isinstance(template, dict) for template in found):
        raise SandboxCommandError("this manager does not list its templates: its answer is no list of templates")
    if form == "json":
        output.print_json(found)
        return
    columns = ["NAME", "CPUS", "MEMORY", "DISK", "STATUS"]
    rows = [
        [
            ", ".join(map(str, template.get("names") or template.get("aliases") or [])) or template.get("templateID"),
            template.get("cpuCount"),
            f"{template.get('memoryMB') or 0} MiB",
            f"{template.get('diskSizeMB') or 0} MiB",
            template.get("buildStatus"),
        ]
        for template in found
    ]
    if form == "wide":
        columns += ["ID", "ENVD", "CREATED"]
        for row, template in zip(rows, found, strict=True):
            row += [template.get("templateID"), template.get("envdVersion"), template.get("createdAt")]
    output.print_table(columns, rows)


@click.command
@click.argument("sandbox", required=False)
@output_option("json")
@connected
def snapshots(sandbox: str | None, form: str | None) -> None:
    """List snapshots: all, or those of SANDBOX."""
    pages = method(sandbox_class(), "list_snapshots", "2.14.0")(find(sandbox).sandbox_id if sandbox else None)
    found = []
    while pages.has_next:
        found += pages.next_items()
    rows = [(snapshot.snapshot_id, list(getattr(snapshot, "names", None) or [])) for snapshot in found]
    if form == "json":
        output.print_json([{"snapshot_id": identifier, "names": names} for identifier, names in rows])
    else:
        output.print_table(["SNAPSHOT", "NAMES"], [(identifier, ", ".join(names)) for identifier, names in rows])


@click.command
@SANDBOX
@click.option("-a", "--all", "everything", is_flag=True, help="Show the ports of the sandbox's own servers too.")
@output_option("json")
@connected
def ports(sandbox: str, everything: bool, form: str | None) -> None:
    """List the ports on which programs in a sandbox listen, and their URLs."""
    entered = enter(sandbox)
    listening = listening_ports(entered.commands.run(_SOCKETS).stdout)
    shown = [port for port in listening if everything or port not in PORTS_OF_SERVERS]
    rows = [(port, PORTS_OF_SERVERS.get(port, ""), address(entered, port)) for port in shown]
    if form == "json":
        output.print_json([{"port": port, "server": server or None, "url": url} for port, server, url in rows])
    else:
        output.print_table(["PORT", "SERVER", "URL"], rows)


def listening_ports(text: str) -> list[int]:
    """Return the ports of the listening sockets in the text of ``/proc/net/tcp`` and ``/proc/net/tcp6``."""
    found = set()
    for fields in map(str.split, text.splitlines()):
        if len(fields) > 3 and fields[3] == _LISTENING:
            port = fields[1].rpartition(":")[2]
            if port and set(port) <= set("0123456789ABCDEF"):
                found.add(int(port, 16))
    return sorted(found)


@click.command
@SANDBOX
@click.argument("port", type=click.IntRange(1, 65535))
@connected
def url(sandbox: str, port: int) -> None:
    """Print the URL of a port of a sandbox."""
    output.print_line(address(find(sandbox), port))


def address(sandbox: Any, port: int) -> str:
    """Return the URL of a port of a sandbox, or of the information about a sandbox."""
    from e2b import ConnectionConfig

    config = ConnectionConfig()
    identifier, domain = sandbox.sandbox_id, sandbox.sandbox_domain or config.domain
    scheme = urlsplit(config.get_sandbox_url(identifier, domain)).scheme
    return f"{scheme}://{config.get_host(identifier, domain, port)}"
