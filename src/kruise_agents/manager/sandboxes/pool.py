"""Warm sandboxes: started before anybody asks for them, so that a create is a claim.

One that waits here is on its leash: it ends with the manager, and is no sandbox for anybody, the store included. One
after another they are made, and not in the moment after a claim, so that those who are being served come first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import KruiseAgentsError
from ..runtime import EgressRules
from ..templates.model import Offer, Template
from .program import SandboxProgram
from .sandbox import first_variables, new_sandbox_id

_QUIET_SECONDS = 0.2
"""How long after a claim nothing is begun: the first calls of its client come now."""
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
"""After failures in a row the pauses double, so that a template which cannot start does not keep the machine busy."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Pool:
    """The warm sandboxes of one template, and what became of them so far."""

    offer: Offer
    ready: deque[Warm] = field(default_factory=deque)
    warm_claims: int = 0
    cold_creates: int = 0
    """Creates of this template that found none ready."""
    failures: int = 0
    """Those that did not start, ended while they waited, or did not answer when they were claimed."""
    pause: float = _FIRST_PAUSE_SECONDS
    """How long none is begun after the next failure."""
    rest_until: float = 0.0
    """On the event loop's clock: none is begun before, after failures."""

    def failed(self) -> None:
        """Rest for a while, in which other pools have their turn."""
        self.rest_until = asyncio.get_running_loop().time() + self.pause
        self.pause = min(self.pause * 2, _LONGEST_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True, eq=False)
class Warm:
    """One that waits, or has been taken."""

    pool: Pool
    id: str
    program: SandboxProgram
    watcher: asyncio.Task[None]


class Pools:
    """The pools of one manager.

    Parameters:
        program: makes the program of the sandbox with an id.
    """

    def __init__(self, program: Callable[[str, Template], SandboxProgram]) -> None:
        self._program = program
        self._pools: dict[str, Pool] = {}
        self._filling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self._rest_until = 0.0

    def all(self) -> list[Pool]:
        """Every pool, in the order in which they were given."""
        return list(self._pools.values())

    def fill(self, offers: Iterable[Offer]) -> None:
        """Keep so many of each template ready from now on."""
        self._pools = {offer.template.name: Pool(offer) for offer in offers if offer.pool > 0}
        if self._pools:
            self._wanted.set()
            self._filling = asyncio.create_task(self._fill())

    def take(self, template: Template, files: Path | None) -> Warm | None:
        """A warm sandbox of that template, begun with those files, which is the caller's now; None: there is none.

        The caller counts in its pool what becomes of it.
        """
        pool = self._pools.get(template.name)
        if pool is None or pool.offer.template != template or pool.offer.files != files:
            return None
        self._rest(_QUIET_SECONDS)
        self._wanted.set()
        while pool.ready:
            warm = pool.ready.popleft()
            warm.watcher.cancel()
            if warm.program.alive:
                return warm
            self._lost(pool, warm)
        pool.cold_creates += 1
        return None

    def has(self, template: Template, files: Path | None) -> bool:
        """Whether a warm sandbox of that template, begun with those files, waits."""
        pool = self._pools.get(template.name)
        if pool is None or pool.offer.template != template or pool.offer.files != files:
            return False
        return any(warm.program.alive for warm in pool.ready)

    async def close(self) -> None:
        """End all that wait, and make no more."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        for pool in self._pools.values():
            while pool.ready:
                warm = pool.ready.popleft()
                warm.watcher.cancel()
                self._end(warm.program)
        for failure in await asyncio.gather(*self._ending, return_exceptions=True):
            if failure is not None:
                logger.error("a warm sandbox did not end well", exc_info=failure)

    async def _fill(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._wanted.wait()
            pool = self._next(clock())
            if pool is None:
                self._wanted.clear()
            elif pool.rest_until > clock():
                await self._rest_of(pool)
            else:
                # Once, or a stream of creates would keep every pool empty.
                await asyncio.sleep(self._rest_until - clock())
                if await self._make(pool):
                    pool.pause = _FIRST_PAUSE_SECONDS
                else:
                    pool.failed()

    def _next(self, moment: float) -> Pool | None:
        """The emptiest of those that do not rest; when all do, the one that does so no longer first."""
        lacking = [pool for pool in self._pools.values() if len(pool.ready) < pool.offer.pool]
        return min(
            lacking, key=lambda pool: (max(pool.rest_until, moment), len(pool.ready) / pool.offer.pool), default=None
        )

    async def _rest_of(self, pool: Pool) -> None:
        """Wait until it is over, or one is wanted that may be of another pool."""
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(pool.rest_until):
                await self._wanted.wait()
        self._wanted.set()

    async def _make(self, pool: Pool) -> bool:
        sandbox_id = new_sandbox_id()
        offer = pool.offer
        program = self._program(sandbox_id, offer.template)
        try:
            if offer.files is not None:
                await program.fill(offer.files)
            program.launch(prepared=offer.files is not None)
            await program.attach(offer.template.within(EgressRules()))
            await program.prepare(offer.template, first_variables(sandbox_id, offer.template), kernel=True)
        except (KruiseAgentsError, OSError) as error:
            # No traceback: it is tried again and again, and the text says why.
            logger.warning("no warm sandbox of template %s could be made: %s", offer.template.name, error)
            pool.failures += 1
            self._end(program)
            return False
        except BaseException:
            self._end(program)
            raise
        watcher = asyncio.create_task(program.ended())
        warm = Warm(pool, sandbox_id, program, watcher)
        watcher.add_done_callback(lambda done: None if done.cancelled() else self._ended(pool, warm))
        pool.ready.append(warm)
        return True

    def _ended(self, pool: Pool, warm: Warm) -> None:
        if warm in pool.ready:
            pool.ready.remove(warm)
            self._lost(pool, warm)
            self._wanted.set()

    def _rest(self, seconds: float) -> None:
        self._rest_until = asyncio.get_running_loop().time() + seconds

    def _lost(self, pool: Pool, warm: Warm) -> None:
        logger.warning("a warm sandbox of template %s ended by itself", pool.offer.template.name)
        pool.failures += 1
        self._rest(_FIRST_PAUSE_SECONDS)
        self._end(warm.program)

    def _end(self, program: SandboxProgram) -> None:
        task = asyncio.create_task(program.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
