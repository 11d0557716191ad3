"""Which file trees are just being copied, so that none is removed under a copy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Readers:
    """How many read each tree at the moment."""

    def __init__(self) -> None:
        self._counts = Counter[Path]()
        self._left = asyncio.Event()

    @contextmanager
    def reading(self, tree: Path | None) -> Iterator[None]:
        """Inside the block ``tree`` is read; None: nothing is."""
        if tree is None:
            yield
            return
        self._counts[tree] += 1
        try:
            yield
        finally:
            self._counts[tree] -= 1
            if not self._counts[tree]:
                del self._counts[tree]
                self._left.set()
                self._left = asyncio.Event()

    def of(self, tree: Path) -> int:
        """How many read ``tree``."""
        return self._counts[tree]

    async def gone(self, tree: Path) -> None:
        """Return when nobody reads ``tree``."""
        while self._counts[tree]:
            await self._left.wait()
