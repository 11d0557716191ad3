"""Removing and measuring what a sandbox leaves on the host, whatever its programs did to it."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

FILE_BYTES = 16 * 1024
"""A disk has room for one file in so many bytes, as ext4 has by default."""

logger = logging.getLogger(__name__)


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
    """Bytes that everything below ``folder`` takes on the disk, as :func:`size_said` counts. It may change meanwhile.

    By ``du``, for the same reason.
    """
    return size_said(_run(*size_command(folder)).stdout)


def size_command(folder: Path) -> tuple[str, ...]:
    """The command whose output :func:`size_said` reads; what vanishes while it looks is no failure."""
    return ("sh", "-c", 'for what in -k --inodes; do du -sx $what -- "$0" 2>/dev/null; done; true', str(folder))


def size_said(output: str) -> int:
    """Bytes, from the output of :func:`size_command`; 0 for a folder that is gone.

    Many small files count as more than they take: see :data:`FILE_BYTES`.
    """
    numbers = [int(line.split()[0]) for line in output.splitlines()]
    return max(numbers[0] * 1024, numbers[1] * FILE_BYTES) if len(numbers) == 2 else 0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
