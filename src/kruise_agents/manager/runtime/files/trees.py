"""Copies, sizes and removal of file trees, by other programs, because Python's own functions fail on deep trees."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ..handle import ProcessHandle
from . import copying

Start = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]
FILE_BYTES = 16 * 1024  # a tree counts as at least so much per file: ext4 by default has room for a file per 16 KiB
_TRIES = 3
_FEW = 400  # files and folders that this process removes itself
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = tuple(os.strerror(number) for number in copying.FULL)
_SHOWN = 3

logger = logging.getLogger(__name__)


class IncompleteCopyError(OSError):
    """An incomplete copy: ``lines`` says what is missing, and why. ``errno`` is ENOSPC if a disk or quota is full."""

    def __init__(self, lines: list[str]) -> None:
        full = any(text in line for line in lines for text in _FULL)
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        super().__init__(errno.ENOSPC if full else errno.EIO, "; ".join(lines[:_SHOWN]) + more)
        self.lines = lines


def copy_command(source: Path, target: Path) -> list[str]:
    """Return the command that copies a folder to ``target``, which must be empty (see :mod:`.copying`)."""
    return [sys.executable, "-I", "-S", copying.__file__, str(source), str(target)]


async def run_copy(start: Start, command: list[str]) -> None:
    """Run the copying ``command``, and kill it if the caller is cancelled.

    Raises :class:`IncompleteCopyError` if not everything was copied.
    """
    with tempfile.TemporaryFile() as output:
        process = start(command, output)
        handle = ProcessHandle.of(process.pid)
        try:
            await handle.ended()
        except BaseException:
            process.kill()
            raise
        finally:
            handle.close()
            code = process.wait()
        if code == 0:
            return
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines() or [f"the copy ended with code {code}"]
        raise IncompleteCopyError(lines)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents with mode 0755, whatever the umask of this process."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def write_file(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file with ``mode``, whatever the umask of this process."""
    with file.open("wb") as opened:
        opened.write(text.encode())
        os.fchmod(opened.fileno(), mode)


def link_again(file: Path, name: str) -> None:
    """Give a file, or a symbolic link, a second name in its folder, in place of any file that has this name."""
    second = file.with_name(name)
    second.unlink(missing_ok=True)
    os.link(file, second, follow_symlinks=False)  # a link takes less time and room than a second file


def remove_tree(folder: Path) -> bool:
    """Remove a folder, whatever the file modes, and follow no links. If the removal fails, log why and return False."""
    with contextlib.suppress(OSError):  # programs remove what this leaves
        _remove_few(folder)
    if not os.path.lexists(folder):
        return True
    done = _run("rm", "-rf", "--", str(folder))
    if folder.exists():
        _run("chmod", "-R", "u+rwX", "--", str(folder))
        done = _run("rm", "-rf", "--", str(folder))
    if folder.exists():
        logger.warning("%s could not be removed: %s", folder, done.stderr.strip()[-500:])
        return False
    return True


def _remove_few(folder: Path) -> None:
    # A sandbox with few files of its own is removed sooner without a program.
    opened = os.open(folder, _FOLDER)
    try:
        _empty(opened, _FEW)
    finally:
        os.close(opened)
    folder.rmdir()


def _empty(folder: int, left: int) -> int:
    """Empty an open folder. Return ``left`` minus the number of removed files and folders; raise OSError below 0."""
    with os.scandir(folder) as listing:
        entries = list(listing)
    for entry in entries:
        left -= 1
        if left < 0:
            raise OSError(errno.E2BIG, "many files")
        if entry.is_dir(follow_symlinks=False):
            inner = os.open(entry.name, _FOLDER, dir_fd=folder)
            try:
                left = _empty(inner, left)
            finally:
                os.close(inner)
            os.rmdir(entry.name, dir_fd=folder)
        else:
            os.unlink(entry.name, dir_fd=folder)
    return left


def tree_size(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk, but at least 16 KiB times its number of inodes.

    Return 0 if there is no such folder. Raises OSError if the folder cannot be measured.
    """
    return measured(folder, lambda command: _run(*command).stdout)


def measured(folder: Path, run: Callable[[Sequence[str]], str]) -> int:
    """Do as :func:`tree_size`, by commands that ``run`` runs; ``run`` returns their output."""
    # Where folders are moved meanwhile, du may end without a figure.
    for _ in range(_TRIES):
        figures = run(_size_command(folder)).split()
        if len(figures) == 2:
            return max(int(figures[0]) * 1024, int(figures[1]) * FILE_BYTES)
        if not folder.exists():
            return 0
    raise OSError(f"du measures no size of {folder}")


def _size_command(folder: Path) -> tuple[str, ...]:
    # Prints the KiB and the number of inodes. Files may vanish meanwhile.
    each = 'du -sx $unit -- "$0" 2>/dev/null | cut -f 1'
    return ("sh", "-c", f"for unit in -k --inodes; do {each}; done; true", str(folder))


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
