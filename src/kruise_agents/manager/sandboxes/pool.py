"""Pools of warm sandboxes: sandboxes started in advance, so that a create call only claims one of them.

A pooled sandbox has an ID and a folder but no database row. A file beside the folder marks it as pooled, so that the
next manager removes the folder. A pooled sandbox belongs to no API key and ends with the manager. One task fills all
pools, one sandbox after another. After a claim the task waits for a moment, so that it does not slow down the first
calls of the claiming client.
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
from ..templates.model import PreparedTemplate, Template
from .process import SandboxProcess
from .sandbox import environment, new_sandbox_id

_QUIET_SECONDS = 0.2
"""Seconds that the filling task waits after a claim, so as not to slow down the claiming client's first calls."""
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
"""The longest delay after a failure. Delays grow, so that a template that cannot start takes little processor time."""

POOLED = ".pooled-"
"""The beginning of the names of the files that mark sandboxes as pooled."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Pool:
    """The warm sandboxes of one template. The claims and failures are counted since the start of the manager."""

    prepared: PreparedTemplate
    ready: deque[PooledSandbox] = field(default_factory=deque)
    warm_claims: int = 0
    cold_creates: int = 0  # claims that found no sandbox ready
    failures: int = 0  # sandboxes that did not start, ended in the pool, or did not answer when they were claimed
    retry_delay: float = _FIRST_RETRY_SECONDS  # seconds to wait after the next failure
    retry_at: float = 0.0  # the earliest time of the next start, on the event loop's clock

    def back_off(self) -> None:
        """Delay the pool's next start of a sandbox. The delay doubles with each failure in a row, up to a minute."""
        self.retry_at = asyncio.get_running_loop().time() + self.retry_delay
        self.retry_delay = min(self.retry_delay * 2, _LONGEST_RETRY_SECONDS)


@dataclass(frozen=True, slots=True, eq=False)
class PooledSandbox:
    """A warm sandbox that waits in its pool, or that a create call has taken out of its pool."""

    pool: Pool
    id: str
    process: SandboxProcess
    watcher: asyncio.Task[None]

    def claimed(self) -> None:
        """Remove the mark of a pooled sandbox. Its row must be stored before."""
        _mark_of(self.process).unlink(missing_ok=True)


class Pools:
    """The pools of one manager. ``new_process`` makes a :class:`SandboxProcess` from a sandbox's ID and template."""

    def __init__(self, new_process: Callable[[str, Template], SandboxProcess]) -> None:
        self._new_process = new_process
        self._pools: dict[str, Pool] = {}
        self._filling: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._wanted = asyncio.Event()
        self._quiet_until = 0.0

    def all(self) -> list[Pool]:
        return list(self._pools.values())

    def start(self, templates: Iterable[PreparedTemplate]) -> None:
        """Begin to keep as many sandboxes ready as each of ``templates`` asks for."""
        self._pools = {prepared.template.name: Pool(prepared) for prepared in templates if prepared.pool > 0}
        if self._pools:
            self._wanted.set()
            self._filling = asyncio.create_task(self._fill())

    def take(self, template: Template, files: Path | None) -> PooledSandbox | None:
        """Take a ready sandbox with this template and file tree out of its pool. Return None if no sandbox is ready."""
        pool = self._find(template, files)
        if pool is None:
            return None
        self._keep_quiet(_QUIET_SECONDS)
        self._wanted.set()
        while pool.ready:
            pooled = pool.ready.popleft()
            pooled.watcher.cancel()
            if pooled.process.alive:
                return pooled
            self._lost(pooled)
        pool.cold_creates += 1
        return None

    def has(self, template: Template, files: Path | None) -> bool:
        pool = self._find(template, files)
        return pool is not None and any(pooled.process.alive for pooled in pool.ready)

    async def close(self) -> None:
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        for pool in self._pools.values():
            while pool.ready:
                pooled = pool.ready.popleft()
                pooled.watcher.cancel()
                self._end(pooled.process)
        for failure in await asyncio.gather(*self._ending, return_exceptions=True):
            if failure is not None:
                logger.error("a warm sandbox did not end well", exc_info=failure)

    def _find(self, template: Template, files: Path | None) -> Pool | None:
        pool = self._pools.get(template.name)
        if pool is None or pool.prepared.template != template or pool.prepared.files != files:
            return None
        return pool

    async def _fill(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await self._wanted.wait()
            pool = self._next(clock())
            if pool is None:
                self._wanted.clear()
            elif pool.retry_at > clock():
                await self._wait_for_retry(pool)
            else:
                # This waits only once: a steady stream of creates must not keep every pool empty.
                await asyncio.sleep(self._quiet_until - clock())
                if await self._start_sandbox(pool):
                    pool.retry_delay = _FIRST_RETRY_SECONDS
                else:
                    pool.back_off()

    def _next(self, moment: float) -> Pool | None:
        """Return the pool that next needs a new sandbox; if several need one now, the least full. None: all full."""
        lacking = [pool for pool in self._pools.values() if len(pool.ready) < pool.prepared.pool]
        return min(
            lacking, key=lambda pool: (max(pool.retry_at, moment), len(pool.ready) / pool.prepared.pool), default=None
        )

    async def _wait_for_retry(self, pool: Pool) -> None:
        """Wait until the pool's delay is over, a create call asks for a warm sandbox, or a warm sandbox ends."""
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(pool.retry_at):
                await self._wanted.wait()
        self._wanted.set()

    async def _start_sandbox(self, pool: Pool) -> bool:
        sandbox_id = new_sandbox_id()
        template, files = pool.prepared.template, pool.prepared.files
        process = self._new_process(sandbox_id, template)
        try:
            _mark_of(process).touch(mode=0o600)
            if files is not None:
                await process.fill(files)
            process.launch(prepared=files is not None)
            await process.attach(template.within(EgressRules()))
            await process.control.prepare(template, environment(sandbox_id, template, {}), kernel=True)
        except (KruiseAgentsError, OSError) as error:
            # No traceback: the start is tried again and again, and the text says why.
            logger.warning("no warm sandbox of template %s could be made: %s", template.name, error)
            pool.failures += 1
            self._end(process)
            return False
        except BaseException:
            self._end(process)
            raise
        watcher = asyncio.create_task(process.ended())
        pooled = PooledSandbox(pool, sandbox_id, process, watcher)
        watcher.add_done_callback(lambda done: None if done.cancelled() else self._at_exit(pooled))
        pool.ready.append(pooled)
        return True

    def _at_exit(self, pooled: PooledSandbox) -> None:
        if pooled in pooled.pool.ready:
            pooled.pool.ready.remove(pooled)
            self._lost(pooled)
            self._wanted.set()

    def _keep_quiet(self, seconds: float) -> None:
        self._quiet_until = asyncio.get_running_loop().time() + seconds

    def _lost(self, pooled: PooledSandbox) -> None:
        logger.warning("a warm sandbox of template %s ended by itself", pooled.pool.prepared.template.name)
        pooled.pool.failures += 1
        self._keep_quiet(_FIRST_RETRY_SECONDS)
        self._end(pooled.process)

    def _end(self, process: SandboxProcess) -> None:
        task = asyncio.create_task(_end_pooled(process))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _mark_of(process: SandboxProcess) -> Path:
    """Return the path of the file that marks a sandbox as pooled."""
    return process.layout.root.with_name(POOLED + process.layout.root.name)


async def _end_pooled(process: SandboxProcess) -> None:
    await process.end()
    _mark_of(process).unlink(missing_ok=True)
