"""An audit hook by which only tests marked ``live`` start processes or connect to other machines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_LISTS_FONTS = ("subprocess.Popen", "fc-list")
"""matplotlib asks for the fonts of the machine once, at its first import in a home folder."""


class Guard:
    """The hook, which refuses only while :meth:`watching` is entered."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._watching = False
        sys.addaudithook(self._look)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse during the block, and fail after it where the code has swallowed the refusal."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False
            refused, self.refused = self.refused, []
        assert not refused, refused

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or (event, *arguments[:1]) == _LISTS_FONTS:
            return
        if event in _STARTS or (event == "socket.connect" and not _is_local(arguments[1])):
            action = f"{event}{arguments[-1 if event == 'socket.connect' else 0 :][:2]}"
            self.refused.append(action)
            raise AssertionError(f"{action} during collection, or in a test that is not marked live")


def _is_local(address: object) -> bool:
    return not isinstance(address, tuple) or str(address[0]).startswith(("127.", "::1", "localhost"))


guard = Guard()
