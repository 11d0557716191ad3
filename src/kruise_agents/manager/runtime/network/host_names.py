"""The addresses of the host names that network rules allow. The manager looks names up; no sandbox has a say in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

SECONDS = 15.0
"""The time between two lookups of a name. Answers come without the time for which they hold."""
KEPT_SECONDS = 600.0
"""An address stays open for this long after the last answer with it: many names have other addresses in each answer."""
MAX_ADDRESSES = 400
"""The most addresses that the names of one sandbox open. Each name has an equal part of them."""
_LOOKUPS_AT_ONCE = 32

Addresses = Mapping[str, tuple[IPv4Network, ...]]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Name:
    asked_at: float
    lookup: asyncio.Task[None]
    found_at: dict[IPv4Address, float] = field(default_factory=dict)  # the time of the last answer with the address
    missing: bool = False  # the last lookup failed


class HostNames:
    """The names that the sandboxes of one manager may reach. A name is looked up once for all sandboxes."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._forgot_at = 0.0
        self._room = asyncio.Semaphore(_LOOKUPS_AT_ONCE)

    async def find(self, names: Collection[str], patience: float | None = None) -> Addresses:
        """Return the addresses of each name. If that takes over ``patience`` seconds, return those known by then."""
        self._forget()
        lookups = [self._begin(name).lookup for name in names]
        if lookups:
            await asyncio.wait(lookups, timeout=patience)
        return {name: self._addresses(name, MAX_ADDRESSES // len(names)) for name in names}

    def _begin(self, name: str) -> _Name:
        # Return the entry of a name, whose newest lookup runs, or has begun a moment ago.
        moment = time.monotonic()
        known = self._names.get(name)
        if known is None:
            known = self._names[name] = _Name(moment, asyncio.create_task(self._look_up(name)))
        elif known.lookup.done() and moment - known.asked_at > SECONDS / 2:
            known.asked_at, known.lookup = moment, asyncio.create_task(self._look_up(name))
        return known

    async def _look_up(self, name: str) -> None:
        async with self._room:
            try:
                found = await _resolve(name)
            except (OSError, UnicodeError) as error:
                if not self._names[name].missing:  # logged once, not at every lookup
                    logger.info("the host name %s was not found: %s", name, error)
                self._names[name].missing = True
                return
        self._names[name].missing = False
        moment = time.monotonic()
        # 0.0.0.0/8 and 127.0.0.0/8 are the sandbox's own. Other private ranges are blocked, whatever is allowed.
        public = [address for address in found if not address.is_loopback and int(address) >> 24]
        self._names[name].found_at.update(dict.fromkeys(public, moment))

    def _addresses(self, name: str, most: int) -> tuple[IPv4Network, ...]:
        since = time.monotonic() - KEPT_SECONDS
        known = self._names.get(name)
        found = [(-moment, address) for address, moment in known.found_at.items() if moment > since] if known else []
        return tuple(sorted(IPv4Network(address) for _, address in sorted(found)[:most]))

    def _forget(self) -> None:
        moment = time.monotonic()
        if moment - self._forgot_at < SECONDS:
            return
        self._forgot_at = moment
        since = moment - KEPT_SECONDS
        for name, known in list(self._names.items()):
            if known.lookup.done() and known.asked_at < since:
                del self._names[name]
            else:
                known.found_at = {address: moment for address, moment in known.found_at.items() if moment > since}


async def _resolve(name: str) -> list[IPv4Address]:
    # In a thread of its own: a lookup can take long, and must hold up neither other work nor the end of the manager.
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[IPv4Address]] = loop.create_future()

    def finish(addresses: list[IPv4Address] | None, error: Exception | None) -> None:
        if not found.done():
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(addresses or [])

    def work() -> None:
        addresses, failure = None, None
        try:
            addresses = look_up(name)
        except (OSError, UnicodeError) as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(finish, addresses, failure)

    threading.Thread(target=work, daemon=True, name=f"look up {name}").start()
    return await found


def look_up(name: str) -> list[IPv4Address]:
    """Return the addresses of a name; blocks. Raises OSError or UnicodeError if there are none."""
    # The dot at the end keeps the machine's search domains out.
    answers = socket.getaddrinfo(f"{name}.", None, socket.AF_INET, socket.SOCK_STREAM)
    return [IPv4Address(answer[4][0]) for answer in answers]
