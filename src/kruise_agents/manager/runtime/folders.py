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


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
