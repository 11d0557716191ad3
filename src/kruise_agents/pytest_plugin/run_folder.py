"""Folder of one pytest run. By it all workers find the same manager, and tell the run what it has to report."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

PID_FILE = "keeper.pid"
KEEP_FILE = "keep"
"""The file that makes the manager outlive the run."""
LOG_FILE = "manager.log"
KEPT_SECONDS = 3600
"""The time for which sandboxes of failed tests are kept."""
_NOTES = "notes"
_END_SECONDS = 60.0


class RunFolder:
    """The folder, which is made when a worker first needs it.

    Attributes:
        path: Where the folder is, or will be. The name is new and cannot be guessed.
        pid: The process that runs the tests, or with pytest-xdist hands them to workers.
    """

    def __init__(self, path: Path, pid: int) -> None:
        self.path = path
        self.pid = pid

    @classmethod
    def of_this_process(cls) -> RunFolder:
        return cls(Path(tempfile.gettempdir(), f"kruise-agents-pytest-{secrets.token_hex(8)}"), os.getpid())

    def make(self) -> None:
        self.path.mkdir(0o700, exist_ok=True)

    def note(self, section: str, text: str) -> None:
        """Add a text to a section of the report at the end of the run."""
        self.make()
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

    def end(self) -> None:
        """End the manager, if there is one that must not be kept, and wait for its end."""
        keeper = self.path / PID_FILE
        if not self.path.exists() or (self.path / KEEP_FILE).exists():
            return
        if not keeper.exists():
            shutil.rmtree(self.path)
            return
        try:
            os.kill(int(keeper.read_text()), signal.SIGTERM)
        except ProcessLookupError:  # it was killed, and the manager ended with it
            shutil.rmtree(self.path)
            return
        deadline = time.monotonic() + _END_SECONDS
        while self.path.exists():
            if time.monotonic() > deadline:
                print(f"kruise-agents: the manager of the tests does not end; see {self.path}", file=sys.stderr)
                return
            time.sleep(0.02)
