"""How much of the disk a sandbox's own files take.

Measured as ``du -x`` does, and besides that without what is mounted from elsewhere: the machine's folders, which a
sandbox sees read-only, may lie on the same file system. By ourselves, because a sandbox at the limit of its processes
could start no program.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_BLOCK = 512
"""The unit of ``st_blocks``."""
_SHORTEST_SECONDS = 1.0
_SHARE = 20
"""A measurement is good for so many times what it took, so that one who asks often costs little."""


class DiskUsage:
    """Measures folders; an answer may be a second old, or older where the tree is large."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._used = 0
        self._due = 0.0

    def used(self) -> int:
        """Bytes that the files below the folders take. Files without a name do not count."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._used = sum(_sizes(self._folders))
                ended = time.monotonic()
                self._due = ended + max(_SHORTEST_SECONDS, _SHARE * (ended - began))
            return self._used

    def size(self) -> int:
        """Bytes that the file systems of the folders have, each counted once."""
        file_systems = {folder.stat().st_dev: os.statvfs(folder) for folder in self._folders}
        return sum(facts.f_blocks * facts.f_frsize for facts in file_systems.values())


def _sizes(folders: Sequence[Path]) -> Iterator[int]:
    """Of every file and folder, once. What vanishes or is closed to us is passed over."""
    elsewhere = _mount_points() - {str(folder) for folder in folders}
    linked: set[tuple[int, int]] = set()
    for top in folders:
        device = top.stat().st_dev
        yield top.stat().st_blocks * _BLOCK
        waiting = [str(top)]
        while waiting:
            for entry, facts in _entries(waiting.pop()):
                if facts.st_dev != device or entry.path in elsewhere:
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if facts.st_nlink > 1 and not is_folder:
                    if (facts.st_dev, facts.st_ino) in linked:
                        continue
                    linked.add((facts.st_dev, facts.st_ino))
                yield facts.st_blocks * _BLOCK
                if is_folder:
                    waiting.append(entry.path)


def _entries(folder: str) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    yield entry, entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # it has just gone
    except OSError:
        return


def _mount_points() -> set[str]:
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return {re.sub(r"\\([0-7]{3})", _character, line.split(" ")[4]) for line in text.splitlines()}


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))
