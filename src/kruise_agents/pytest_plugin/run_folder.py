"""Folder of one pytest run. By it all workers find the same manager, and tell the run what it has to report."""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

RUN_LOCK = "run.lock"
"""The file that the run locks for its lifetime."""
PID_FILE = "keeper.pid"
KEEP_FILE = "keep"
"""The file that makes the manager outlive the run."""
LOG_FILE = "manager.log"
KEPT_SECONDS = 3600
"""The time for which sandboxes of failed tests are kept."""
_NOTES = "notes"
_END_SECONDS = 60.0


class RunFolder:
    """The folder as a worker sees it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir(0o700, parents=True, exist_ok=True)  # a worker on another machine

    def note(self, section: str, text: str) -> None:
        """Add a text to a section of the report at the end of the run."""
        with (self.path / _NOTES).open("a", encoding="utf-8") as file:
            file.write(json.dumps([section, text]) + "\n")

    def notes(self) -> dict[str, list[str]]:
        """Return the texts of each section."""
        sections: dict[str, list[str]] = {}
        path = self.path / _NOTES
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            section, text = json.loads(line)
            sections.setdefault(section, []).append(text)
        return sections


class OwnRunFolder(RunFolder):
    """The folder as the process sees that runs the tests, or with pytest-xdist hands them to workers.

    This process locks the folder until :meth:`end`. Whatever ends the process ends the lock, and by that the manager.
    """

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="kruise-agents-pytest-")))
        self._lock = (self.path / RUN_LOCK).open("w")
        fcntl.lockf(self._lock, fcntl.LOCK_EX)  # unlike flock, a fork of a test does not inherit this lock

    def end(self) -> None:
        """End the manager, if there is one that must not be kept, and wait for its end."""
        keeper = self.path / PID_FILE
        keeps = (self.path / KEEP_FILE).exists()
        self._lock.close()
        if not keeper.exists():
            shutil.rmtree(self.path)
            return
        deadline = time.monotonic() + _END_SECONDS
        while not keeps and self.path.exists():
            if time.monotonic() > deadline:
                print(f"kruise-agents: the manager of the tests does not end; see {self.path}", file=sys.stderr)
                return
            time.sleep(0.02)
