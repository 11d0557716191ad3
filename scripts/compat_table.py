"""The results of the matrix as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from support.matrix import LIKE_OPENKRUISE, Cell
from support.releases import BrokenPair, Releases

NOT_THERE = "-"
COLUMNS: dict[str, tuple[str, ...]] = {
    "API": ("create", "API", "kill"),
    "files": ("files",),
    "commands": ("commands",),
    "run_code": ("run_code",),
    "get_host": ("get_host",),
    "file URLs": ("download_url", "upload_url"),
    "MCP": ("get_mcp_url",),
    "connect": ("connect",),
    "templates": ("templates",),
    "build upload": ("upload of a build",),
    "pause": ("pause",),
    "snapshots": ("snapshots",),
    "fork": ("fork",),
    "volumes": ("volumes", "volume contents"),
    "secrets": ("secrets",),
    "desktop stream": ("desktop stream",),
    "E2B()": ("E2B client",),
    "of CI": ("E2B client of the code interpreter",),
    "of desktop": ("E2B client of the desktop",),
    LIKE_OPENKRUISE: (LIKE_OPENKRUISE,),
    "wire": ("wire",),
}
INTRODUCTION = """\
# Compatibility

Written by `make compat` on {day} ({machine}); not edited by hand. {total} programs, {passed} of them without a fault.

This page shows which releases of the SDK work with `patch_e2b` against the embedded manager. Each row is a release of
e2b. The release runs alone, and with the oldest and the newest e2b-code-interpreter (CI) and e2b-desktop that work with
it without the patch. All of them run over https and plain http, with the sync and the async classes (the desktop has
sync classes only).

| Word | Meaning |
|---|---|
| ok | What the column names works in every combination of the row. |
| - | This release does not have what the column names. |
| native: ... | What the column names fails without the patch, too. |
| **red** | What the column names does not work. The reasons are below the table. |

| Column | What is done |
|---|---|
| API | create, list, info, time-out, running, kill |
| files | write, read, list and exists: the HTTP and the RPC side of envd |
| commands | a command with variables, and one in the background |
| run_code | code in a kernel; its state is there after a connect |
| get_host | a page from a server in the sandbox |
| file URLs | `download_url` and `upload_url`, signed, used; refused without the signature |
| MCP | a page from a server at `get_mcp_url()` |
| connect | objects made from an ID, by the class and by the object: files, commands, code, addresses |
| templates | a build is asked for; an alias is looked up |
| build upload | the file of a build goes to the URL that the server gave, byte for byte |
| pause | under each name that the release has, then a connect: files, commands, code |
| snapshots | made, listed, used for a new sandbox, deleted |
| fork | a sandbox with the files of another |
| volumes, secrets | the address of each request; the manager's answer does not count |
| desktop stream | the page at the desktop's stream URL, and the WebSocket that noVNC opens for that URL |
| E2B() | the client object of e2b, with no domain in the environment: sandboxes, templates, volumes, secrets |
| of CI, of desktop | the same for the client objects of the code interpreter and of the desktop |
| on OpenKruise's | the manager is like OpenKruise's (`serve --like openkruise`, over http): see below |
| wire | of {requests} requests, seen by a recording proxy, each is for the one domain and below `/kruise/` |

On a manager like OpenKruise's, files, commands, `run_code`, `get_host`, connect, network rules, and lists by metadata,
template, start time and order give what they should. Metrics, forks, and options that such a manager ignores are
refused by name. A pause warns that files are gone.

"""

ON_LATER_PYTHONS = """
## On Python 3.12 and later

The table was made with the Python that its first line names. One call of the SDK differs on Python 3.12 and later, also
without the patch: `AsyncSandbox.files.watch_dir(timeout=...)` of e2b 2.35.0 and later. When the time is over, the SDK's
RPC library cancels the task that made the call, whatever the task does by then. Make the call in a task of its own:
`handle = await asyncio.create_task(sandbox.files.watch_dir(...))`. A test expects this fault and fails once it is gone
(`tests/sandbox/envd/watch/test_watch.py`). `Sandbox` is not affected.
"""


def page(releases: Releases, cells: Sequence[Cell], broken: Mapping[BrokenPair, bool], machine: str, day: date) -> str:
    """Return the page in Markdown.

    Args:
        broken: the pairs that are listed as broken without any patch, each with True if it is still broken.
    """
    passed = sum(cell.passed for cell in cells)
    requests = sum(cell.requests for cell in cells)
    text = INTRODUCTION.format(day=day, machine=machine, total=len(cells), passed=passed, requests=requests)
    head = ["e2b", "CI", "desktop", *COLUMNS]
    lines = [_row(head), _row(["---"] * len(head))]
    for release in reversed(releases.e2b):
        mine = [cell for cell in cells if cell.pair.e2b == release]
        native = {} if releases.working_code_interpreters(release) else {"run_code": "native: no CI works"}
        found = [native.get(column) or _cell(column, mine) for column in COLUMNS]
        lines.append(_row([release, _versions(mine, "code_interpreter"), _versions(mine, "desktop"), *found]))
    return text + "\n".join(lines) + "\n" + _reasons(cells) + _broken(broken) + ON_LATER_PYTHONS


def _versions(cells: Sequence[Cell], package: str) -> str:
    versions = dict.fromkeys(version for cell in cells if (version := getattr(cell.pair, package)))
    return ", ".join(versions) or "none"


def _cell(column: str, cells: Sequence[Cell]) -> str:
    found = [
        results[surface]
        for cell in cells
        for results in cell.results.values()
        for surface in COLUMNS[column]
        if surface in results
    ]
    without_sandbox = any(results["create"] != "ok" for cell in cells for results in cell.results.values())
    if without_sandbox or any(one != "ok" for one in found):
        return "**red**"
    return "ok" if found else NOT_THERE


def _reasons(cells: Sequence[Cell]) -> str:
    lines = [
        f"- {cell.pair}, {cell.scheme}, {mode}, {surface}: {' '.join(found.split())}"
        for cell in cells
        for mode, results in cell.results.items()
        for surface, found in results.items()
        if found != "ok"
    ]
    return "\n## Red cells\n\n" + "\n".join(lines) + "\n" if lines else ""


def _broken(broken: Mapping[BrokenPair, bool]) -> str:
    lines = [
        "",
        "## Pairs that do not work without any patch",
        "",
        "pip may choose some of these pairs. Files and commands work with them, `run_code` does not. `patch_e2b` does "
        "not refuse them. With the patch `run_code` works with 2.55.0 and 2.10.4, and with no other of them.",
        "",
        _row(["e2b", "CI", "native: what it says", "still so"]),
        _row(["---"] * 4),
        *(
            _row([one.pair.e2b, str(one.pair.code_interpreter), f"`{one.says}`", "yes" if fails else "**no**"])
            for one, fails in broken.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
