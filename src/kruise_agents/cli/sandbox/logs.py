"""The command ``logs``: the log of a sandbox's own servers."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from . import output
from .errors import SandboxCommandError
from .options import SANDBOX, connected
from .sdk import api_get, find

_PAUSE = 1.0
"""Seconds between two looks at the log."""
_MOST = 1000


@click.command
@SANDBOX
@click.option("-f", "--follow", is_flag=True, help="Wait for more lines, until Ctrl-C or the end of the sandbox.")
@click.option("-n", "--tail", type=click.IntRange(1, _MOST), default=_MOST, help="The last lines only.")
@click.option("--level", type=click.Choice(["debug", "info", "warn", "error"]), help="This level and higher ones.")
@connected
def logs(sandbox: str, follow: bool, tail: int, level: str | None) -> None:
    """Show the log of a sandbox's own servers (envd and the code interpreter), not of its programs.

    The log of a healthy new sandbox is empty.
    """
    sandbox_id = find(sandbox).sandbox_id
    wanted = {"level": level} if level else {}
    known = _entries(sandbox_id, {"direction": "backward", **wanted})[::-1]
    fresh = known[-tail:]
    try:
        while True:
            for entry in fresh:
                output.print_line(_text(entry))
            if not follow:
                return
            time.sleep(_PAUSE)
            fresh = _newer(sandbox_id, known, wanted)
            known = fresh or known
    except SandboxCommandError:
        find(sandbox_id)  # raises if the sandbox has ended, which says more than the lack of its log
        raise


def _newer(sandbox_id: str, known: list[dict[str, Any]], wanted: dict[str, str]) -> list[dict[str, Any]]:
    """Return the entries that came after those of ``known``, which are the newest so far."""
    last = _moment(known[-1]) if known else None
    cursor = {} if last is None else {"cursor": int(last.timestamp() * 1000)}
    found = _entries(sandbox_id, {"direction": "forward", **cursor, **wanted})
    # The answer begins with the millisecond of the last entry, so it may repeat entries.
    repeated = list(known)
    return [entry for entry in found if not _taken(entry, repeated)]


def _taken(entry: dict[str, Any], entries: list[dict[str, Any]]) -> bool:
    if entry in entries:
        entries.remove(entry)
        return True
    return False


def _entries(sandbox_id: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    answer = api_get(f"/v2/sandboxes/{sandbox_id}/logs", "keep logs of sandboxes", {"limit": _MOST, **parameters})
    found = answer.get("logs") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise SandboxCommandError("this manager does not keep logs of sandboxes: its answer has none")
    return found


def _moment(entry: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).astimezone(UTC)
    except ValueError:
        return None


def _text(entry: dict[str, Any]) -> str:
    moment = _moment(entry)
    shown = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z" if moment else "-"
    fields = entry.get("fields")
    logger = fields.get("logger", "") if isinstance(fields, dict) else ""
    return f"{shown} {entry.get('level', '')} {logger} {entry.get('message', '')}"
