"""The inotify instance of a sandbox, which all watches of the sandbox share.

Linux limits the instances of each user of the host, usually to 128, and all sandboxes of a manager count as one user.
So a sandbox has one instance for all watches, and no instance without watches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from ...connect import Code, ConnectError
from . import inotify
from .inotify import Inotify, Record
from .watch import Describe, Watch


class SharedInotify:
    """The inotify instance that all clients' watches share. Every watch of a folder gets the folder's records."""

    def __init__(self) -> None:
        self._instance: Inotify | None = None
        self._attached: dict[int, set[Watch]] = {}
        self._records: deque[Record] = deque()
        self._watches: set[Watch] = set()

    async def open(self, path: str, *, recursive: bool, describe: Describe | None) -> Watch:
        """Start a watch, which reports all changes made after this call, and perhaps changes made during the call."""
        if self._instance is None:
            self._instance = Inotify()
            asyncio.get_running_loop().add_reader(self._instance.fd, self.drain)
        # Records from before the new watch belong to the other watches only.
        self.drain()
        watch = Watch(self, path, recursive=recursive, describe=describe)
        self._watches.add(watch)
        try:
            await watch.start()
        except BaseException:
            self.close(watch)
            raise
        return watch

    def close(self, watch: Watch) -> None:
        watch.stop()
        self._watches.discard(watch)
        if not self._watches and self._instance is not None:
            asyncio.get_running_loop().remove_reader(self._instance.fd)
            self._instance.close()
            self._instance = None
            self._records.clear()

    def close_all(self) -> None:
        for watch in list(self._watches):
            self.close(watch)

    def drain(self) -> None:
        self.peek()
        while self._records:
            record = self._records.popleft()
            if record.mask & inotify.OVERFLOW:
                for watch in self._watches:
                    watch.fail(
                        ConnectError(Code.INTERNAL, "more happened than the system could remember; events were lost")
                    )
                continue
            for watch in list(self._attached.get(record.descriptor, ())):
                watch.handle(record)
            if record.mask & inotify.IGNORED:
                self._attached.pop(record.descriptor, None)

    def peek(self) -> Iterable[Record]:
        if self._instance is not None:
            self._records.extend(self._instance.read())
        return self._records

    def attach(self, watch: Watch, path: str, *, follow: bool) -> int:
        assert self._instance is not None
        descriptor = self._instance.add(path, follow=follow)
        self._attached.setdefault(descriptor, set()).add(watch)
        return descriptor

    def detach(self, watch: Watch, descriptor: int) -> None:
        watches = self._attached.get(descriptor)
        if watches is None:
            return
        watches.discard(watch)
        if not watches:
            del self._attached[descriptor]
            if self._instance is not None:
                self._instance.remove(descriptor)
