"""Removing what a sandbox leaves on the host, whatever its programs did to it."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

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
    """Bytes that everything below ``folder`` takes on the disk. Programs may change it meanwhile.

    By ``du``, for the same reason.
    """
    return size_said(_run(*size_command(folder)).stdout)


def size_command(folder: Path) -> tuple[str, ...]:
    """The command whose output :func:`size_said` reads; what vanishes while it looks is no failure."""
    return ("sh", "-c", 'du -skx -- "$0" 2>/dev/null; true', str(folder))


def size_said(output: str) -> int:
    """Bytes, from the output of :func:`size_command`; 0 for a folder that is gone."""
    return int(output.split()[0]) * 1024 if output else 0


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
