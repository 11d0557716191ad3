"""Copying a sandbox's file tree whole: owners, modes, links, times, extended attributes.

Blocks are shared where the file system can do that.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..handle import ProcessHandle

Start = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]
FILE_BYTES = 16 * 1024
"""A disk has room for one file in so many bytes, as ext4 has by default."""
_FULL = ("No space left on device", "Disk quota exceeded")

logger = logging.getLogger(__name__)


def copy_command(source: Path, target: Path) -> list[str]:
    """The command that copies the folder ``source`` to ``target``, which is empty or not there. It speaks English."""
    copy = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--no-target-directory", "--", str(source), str(target)]
    return ["env", "LC_ALL=C", f"PATH={os.environ.get('PATH', os.defpath)}", *copy]


async def run_copy(start: Start, command: list[str]) -> None:
    """Run a copy to its end; one that is cancelled is ended.

    Parameters:
        start: starts the command with its output going to the given file.

    Raises:
        OSError: it failed; the text says why, and the number is ENOSPC when the disk is full.
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
        said = output.read().decode(errors="replace").strip()[-500:] or f"the copy ended with code {code}"
        raise OSError(errno.ENOSPC if any(text in said for text in _FULL) else errno.EIO, said)


def remove_tree(folder: Path) -> bool:
    """Remove ``folder`` and everything in it, however deep, also where permissions were taken away.

    Links are not followed. By ``rm``: a tree may be deeper than Python's own function can descend.

    Returns:
        Whether it is gone; if not, the log says why.
    """
    done = _run("rm", "-rf", "--", str(folder))
    if folder.exists():
        _run("chmod", "-R", "u+rwX", "--", str(folder))
        done = _run("rm", "-rf", "--", str(folder))
    if folder.exists():
        logger.warning("%s could not be removed: %s", folder, done.stderr.strip()[-500:])
        return False
    return True


def tree_size(folder: Path) -> int:
    """Bytes that everything below ``folder`` takes on the disk, as :func:`parse_size` counts. It may change meanwhile.

    By ``du``, for the same reason.
    """
    return parse_size(_run(*size_command(folder)).stdout)


def size_command(folder: Path) -> tuple[str, ...]:
    """The command whose output :func:`parse_size` reads; what vanishes while it looks is no failure."""
    return ("sh", "-c", 'for what in -k --inodes; do du -sx $what -- "$0" 2>/dev/null; done; true', str(folder))


def parse_size(output: str) -> int:
    """Bytes, from the output of :func:`size_command`; 0 for a folder that is gone.

    Many small files count as more than they take: see :data:`FILE_BYTES`.
    """
    numbers = [int(line.split()[0]) for line in output.splitlines()]
    return max(numbers[0] * 1024, numbers[1] * FILE_BYTES) if len(numbers) == 2 else 0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
