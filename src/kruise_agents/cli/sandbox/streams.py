"""The output of programs in a sandbox, written as it comes, and their exit codes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from .output import note

_SIGNALS = {
    "hangup": 1,
    "interrupt": 2,
    "quit": 3,
    "illegal instruction": 4,
    "aborted": 6,
    "killed": 9,
    "segmentation fault": 11,
    "broken pipe": 13,
    "terminated": 15,
}
"""Signals by the names that envd gives them, as Go names signals."""


class Stream(threading.Thread):
    """A call of the SDK that reads a stream. It has its own thread, so that Ctrl-C reaches the main thread at once."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        self._ended.set()

    def result(self) -> Any:
        """Wait for the end of the call, and return or raise what it returned or raised."""
        if not self.is_alive() and not self._ended.is_set():
            self.start()
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result


def write(stream: Any, text: str) -> None:
    """Write the output of a program as it is."""
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.buffer.flush()


def exit_code(handle: Any, on_pty: Callable[[bytes], None] | None = None) -> int:
    """Write the output of a command until its end, and return its exit code as a shell does."""
    from e2b import CommandExitException

    try:
        handle.wait(
            on_pty=on_pty,
            on_stdout=lambda text: write(sys.stdout, text),
            on_stderr=lambda text: write(sys.stderr, text),
        )
    except CommandExitException as ended:
        if ended.exit_code >= 0:
            return int(ended.exit_code)
        reason = str(ended.error or "").strip()
        note(f"kruise-agents: the command did not exit: {reason or 'no reason was given'}")
        number = _SIGNALS.get(reason.removeprefix("signal: ").partition(" (")[0])
        return 1 if number is None else 128 + number
    return 0
