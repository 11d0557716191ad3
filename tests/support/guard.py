"""An audit hook that permits only tests marked ``live`` to start processes or to connect to other machines."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_LISTS_FONTS = ("subprocess.Popen", "fc-list")
"""The one permitted start: matplotlib lists the machine's fonts once, at its first import in a home folder."""


class Guard:
    """The hook, which refuses only inside a block of :meth:`watching`."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self._watching = False
        sys.addaudithook(self._look)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse during the block. Raise AssertionError after the block if the code has caught a refusal."""
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
