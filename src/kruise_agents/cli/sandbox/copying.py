"""The command ``cp``: files and folders into a sandbox and out of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from . import output
from .download import Download
from .options import USER, connected
from .sdk import enter
from .upload import Upload

_REMOTE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._~-]*):(.*)", re.DOTALL)


class Place(NamedTuple):
    """An end of a copy: a path, and the sandbox that has it; None for this machine."""

    sandbox: str | None
    path: str


def parse_place(text: str) -> Place:
    """Return the place of ``SANDBOX:PATH`` or ``PATH``. A local path with a colon begins with ``./`` or ``/``."""
    found = _REMOTE.fullmatch(text)
    return Place(found[1], found[2]) if found else Place(None, text)


class Meter:
    """The progress of a copy, shown on a terminal only."""

    def __init__(self, shown: bool) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            *columns, console=console, disable=not (shown and sys.stderr.isatty()), transient=True
        )
        self._task = self._progress.add_task("", total=None)
        self.files = 0
        self.bytes = 0

    def __enter__(self) -> Meter:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def expect(self, size: int) -> None:
        self._progress.update(self._task, total=size)

    def begin(self, name: str) -> None:
        self.files += 1
        self._progress.update(self._task, description=output.plain(Path(name).name)[-40:])

    def advance(self, size: int) -> None:
        self.bytes += size
        self._progress.advance(self._task, size)


@click.command("cp")
@click.option("-f", "--force", is_flag=True, help="Replace files on this machine that exist.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
@USER
@click.argument("source")
@click.argument("target")
@connected
def cp(force: bool, quiet: bool, user: str | None, source: str, target: str) -> None:
    """Copy a file or a folder into a sandbox, or out of it.

    SOURCE or TARGET is SANDBOX:PATH; a relative PATH there begins at the user's home. As with `docker cp`, a folder is
    copied into a target folder that exists, and becomes the target otherwise; SOURCE/. is what is in the folder.

    In a sandbox files are replaced. On this machine they are only with --force. Nothing is ever written outside of
    TARGET: symbolic links that lead out of the folder are left out, and said.

    \b
    Examples:
      kruise-agents sandbox cp ./project SANDBOX:/home/user
      kruise-agents sandbox cp SANDBOX:report.pdf .
    """
    here, there = parse_place(source), parse_place(target)
    if (here.sandbox is None) == (there.sandbox is None):
        raise click.UsageError("One of SOURCE and TARGET is SANDBOX:PATH, and the other is a path on this machine.")
    if not here.path:
        raise click.UsageError("SOURCE names no path.")
    sandbox = enter(here.sandbox or there.sandbox or "")
    with Meter(not quiet) as meter:
        if here.sandbox is None:
            left_out = Upload(sandbox, user, meter).copy(here.path, there.path)
        else:
            left_out = Download(sandbox, user, meter, force=force).copy(here.path, there.path)
    for line in left_out:
        output.note(f"left out: {line}")
    if not quiet:
        count = "1 file" if meter.files == 1 else f"{meter.files} files"
        output.note(f"copied {count}, {output.size_text(meter.bytes)}")
