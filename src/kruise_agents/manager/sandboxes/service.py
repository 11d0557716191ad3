"""Every sandbox of this manager: made, found, prolonged, paused, resumed, ended.

Operations on one sandbox take turns, in the order in which they came. A kill does not wait: it cancels what is under
way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..accounts.quota import UNLIMITED, Quota
from ..metrics import Metrics
from ..runtime import Egress, EgressRules, Layout, Mount, Runtime, Watch
from ..state.database import Database, NoSpaceError, no_space
from ..state.secret import StateSecret
from ..templates.model import Template
from ..traffic_tokens import TrafficTokens
from .exits import Exits
from .lifecycle import Event, RefusedError, State
from .lifetime import Lifetime
from .operations import Changes
from .pool import Pools, Warm
from .program import NoAnswerError, SandboxProgram, StartError
from .readers import Readers
from .records import Records
from .sandbox import Sandbox, VolumeMount, new_sandbox_id, now, seconds_until
from .timers import Timers
from .turns import Turns

LEAST_SECONDS_AFTER_WAKING = 300.0
_LEAST_FREE_BYTES = 1024 * 1024
"""A new sandbox takes about a tenth of that."""

logger = logging.getLogger(__name__)


class ManagerEndingError(StartError):
    """No sandbox was made, because the manager ends."""


class SandboxService:
    """The sandboxes of one manager: in memory, and written down as they change.

    Parameters:
        runtime: what runs them.
        folder: where their folders go; it exists.
        store: where they are written down.
        secret: what their access tokens are derived from.
        traffic_tokens: who signs for them.
        egress: what connects them to the internet, or None: whatever is installed.
        volumes: where the folders of volumes are; None: beside ``folder``.
        metrics: where creates and ends are counted.
        program: makes the program of a sandbox; another one for tests of the life cycle alone.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        store: Database,
        secret: StateSecret,
        traffic_tokens: TrafficTokens,
        egress: Egress | None = None,
        volumes: Path | None = None,
        metrics: Metrics | None = None,
        program: Callable[..., SandboxProgram] = SandboxProgram,
    ) -> None:
        self.traffic_tokens = traffic_tokens
        self.runtime = runtime
        self.folder = folder
        self.store = store
        self.secret = secret
        self._egress = egress or Egress()
        self._limit_watch = Watch(runtime.disk_usage, memory=not runtime.enforcer.holds_memory)
        self._volumes = volumes or folder.parent / "volumes"
        self._program = program
        self._metrics = metrics or Metrics()
        self._known: dict[str, Sandbox] = {}
        self._deadlines = Timers(self._at_deadline)
        self._watchers = Exits(self._at_end)
        self._ledger = Records(store, runtime.name)
        self._changes = Changes(runtime, self._ledger, self._deadlines, self._watchers)
        self._turns = Turns()
        self._closing = False
        self.readers = Readers()
        """Which file trees creates are copying."""
        self.pools = Pools(self.program)

    def find(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox of that id that runs, rests, or changes between the two; None for all others."""
        sandbox = self._known.get(sandbox_id)
        return None if sandbox is None or sandbox.state is State.STARTING or sandbox.state.ending else sandbox

    @property
    def reach_the_internet(self) -> bool:
        """Whether sandboxes are connected to the outside at all."""
        return self._egress.carrier is not None and self.runtime.own_network

    def running(self, sandbox_id: str) -> Sandbox | None:
        """The running sandbox of that id, or None."""
        sandbox = self._known.get(sandbox_id)
        return sandbox if sandbox is not None and sandbox.state is State.RUNNING else None

    def everything(self) -> list[Sandbox]:
        """Every sandbox that :meth:`find` finds, whoever owns it, in no particular order."""
        return [one for one in self._known.values() if self.find(one.id) is not None]

    def all(self, owner: str) -> list[Sandbox]:
        """Those of one owner."""
        return [one for one in self.everything() if one.owner == owner]

    def states(self) -> Iterator[State]:
        """The state of each one that has not gone."""
        return (sandbox.state for sandbox in self._known.values())

    def is_ending(self, sandbox_id: str, owner: str) -> bool:
        """Whether a sandbox of that id and owner is just being ended."""
        sandbox = self._known.get(sandbox_id)
        return sandbox is not None and sandbox.owner == owner and sandbox.state.ending

    def owners(self) -> set[str]:
        """Who has one."""
        return {sandbox.owner for sandbox in self._known.values()}

    def hand_over(self, owner: str, heir: str) -> None:
        """Give all of one owner's sandboxes to another."""
        for sandbox in self._known.values():
            if sandbox.owner == owner:
                sandbox.owner = heir
                if not sandbox.state.ending:
                    self._ledger.note(sandbox)

    async def create(
        self,
        template: Template,
        *,
        lifetime: Lifetime,
        secure: bool,
        metadata: Mapping[str, str],
        variables: Mapping[str, str],
        owner: str,
        quota: Quota = UNLIMITED,
        files: Path | None = None,
        volume_mounts: Sequence[VolumeMount] = (),
        rules: EgressRules = EgressRules(),  # noqa: B008 - cannot be changed
        public: bool = True,
        chosen: Callable[[str], None] = lambda sandbox_id: None,
    ) -> Sandbox:
        """Start a sandbox; returns when it answers on its ports.

        Parameters:
            secure: whether envd asks for an access token.
            owner: the id of the API key that makes it.
            quota: what the owner's sandboxes may take together.
            files: a file tree to begin with a copy of; None: an empty one.
            volume_mounts: the volumes that it sees, and where.
            rules: what it may reach outside, within what the template says.
            public: whether its ports are open to everybody; otherwise requests need a token of it.
            chosen: is told its id when that is written down, before it runs; again, if another has to take its place.

        Raises:
            QuotaExceededError: the owner has too many already.
            ManagerEndingError: as it says. Nothing is left behind.
            StartError: its program did not come up. Nothing is left behind.
            NoSpaceError: the disk is full. Nothing is left behind.
        """
        while True:
            # Nothing waits between this look and the entry in the books: two creates cannot take the last place.
            if self._closing:
                raise ManagerEndingError("the manager is ending; nothing was made")
            uses = [use for one in self._known.values() if one.owner == owner and (use := one.use)]
            quota.require(template.use(), uses)
            self._require_space()
            # A warm one has no volumes: they are mounted when its program is launched.
            warm = self.pools.take(template, files) if not volume_mounts else None
            sandbox_id, program = (warm.id, warm.program) if warm else self._cold(template, volume_mounts)
            token = self.secret.access_token(sandbox_id) if secure else None
            moment = now()
            sandbox = Sandbox(sandbox_id, template, program, metadata, token, moment, moment, lifetime, owner)
            sandbox.rules = template.within(rules)
            sandbox.volume_mounts = tuple(volume_mounts)
            sandbox.traffic_token = None if public else self.secret.traffic_token(sandbox_id)
            if await self._start(sandbox, warm, variables, files, chosen):
                return sandbox

    async def _start(
        self,
        sandbox: Sandbox,
        warm: Warm | None,
        variables: Mapping[str, str],
        files: Path | None,
        chosen: Callable[[str], None],
    ) -> bool:
        """Let a new sandbox run; False: it was a warm one that did not answer, and another may be taken at once."""
        begun = time.monotonic()
        self._known[sandbox.id] = sandbox
        try:
            # Before anything exists that would stay, so that nothing can be left that nobody knows of.
            self._ledger.save(sandbox)
            chosen(sandbox.id)
            with self.readers.reading(files):
                await self._turns.take(sandbox, Event.READY, lambda: self._changes.start(sandbox, variables, files))
        except BaseException as error:
            # Whatever ended the start, nothing half-made stays.
            end = None if sandbox.state.ending else self._kill(sandbox)
            if warm is not None and isinstance(error, StartError) and end is not None:
                logger.warning("a warm sandbox is ended, and another taken: %s", error)
                warm.pool.failures += 1
                return False
            self._metrics.failed_creates += 1
            if end is not None:
                await asyncio.shield(end)
            if isinstance(error, RefusedError):
                raise ManagerEndingError("the manager is ending; nothing was made") from error
            raise
        if warm is not None:
            warm.pool.warm_claims += 1
        self._metrics.create_seconds["warm" if warm else "cold"].add(time.monotonic() - begun)
        logger.info("sandbox %s runs (template %s)", sandbox.id, sandbox.template.name)
        return True

    async def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` end, or be paused, in ``seconds`` from now, sooner or later than before; 0 or less: now.

        Raises:
            RefusedError: it does not run.
        """
        await self._turns.take(sandbox, Event.READY, lambda: self._changes.set_timeout(sandbox, seconds))

    async def extend(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` live at least ``seconds`` from now; never shortens its life.

        Raises:
            RefusedError: it does not run.
        """
        await self._turns.take(sandbox, Event.READY, lambda: self._changes.extend(sandbox, seconds))

    async def change_rules(self, sandbox: Sandbox, rules: EgressRules) -> None:
        """Let ``sandbox`` reach something else outside from now on.

        Raises:
            RefusedError: it does not run.
            OSError: the kernel refused.
        """
        await self._turns.take(sandbox, Event.READY, lambda: self._changes.change_rules(sandbox, rules))

    async def expire(self, sandbox: Sandbox) -> None:
        """Let its end time be now, and return when what is to happen then has happened.

        Raises:
            RefusedError: it does not run.
        """
        if sandbox.lifetime.never_ends:
            return
        if sandbox.lifetime.pause_at_end:
            await self.pause(sandbox, memory=sandbox.lifetime.pause_keeps_memory)
        elif sandbox.state is not State.RUNNING or not await self.kill(sandbox.id):
            raise RefusedError(sandbox.state, Event.KILL)

    async def pause(self, sandbox: Sandbox, *, memory: bool = True, kept: float | None = None) -> None:
        """Stop everything in ``sandbox`` until it is resumed. One that is paused already stays as it is.

        Parameters:
            memory: keep its processes, with their connections; otherwise only its files.
            kept: seconds after which it is ended if nobody resumes it, may be infinite; None: as its lifetime says.

        Raises:
            RefusedError: it is ending.
            NoAnswerError: it could not be paused.
        """
        await self._turns.take(sandbox, Event.PAUSE, lambda: self._changes.pause(sandbox, memory=memory, kept=kept))

    async def resume(self, sandbox: Sandbox, seconds: float, *, memory: bool = True) -> bool:
        """Let a paused ``sandbox`` go on for ``seconds``; a running one lives at least that long.

        Parameters:
            memory: False: boot it anew from its files, even when its processes were kept.

        Returns:
            Whether it was paused.

        Raises:
            RefusedError: it is ending.
            StartError: it was paused without its processes and does not start; it stays paused.
            NoAnswerError: its processes are gone.
        """
        was_paused = False

        async def work() -> None:
            nonlocal was_paused
            was_paused = sandbox.state is State.PAUSED
            await (
                self._changes.resume(sandbox, seconds, memory=memory)
                if was_paused
                else self._changes.extend(sandbox, seconds)
            )

        await self._turns.take(sandbox, Event.RESUME, work)
        return was_paused

    async def awaken(self, sandbox: Sandbox) -> bool:
        """Resume ``sandbox`` if it wants that when somebody comes to one of its ports. Returns whether it runs now."""
        if not sandbox.lifetime.wakes_on_traffic:
            return sandbox.state is State.RUNNING

        async def work() -> None:
            if sandbox.state is State.PAUSED:
                seconds = max(sandbox.lifetime.seconds, LEAST_SECONDS_AFTER_WAKING)
                await self._changes.resume(sandbox, seconds, memory=True)

        try:
            await self._turns.take(sandbox, Event.RESUME, work)
        except RefusedError:
            return False  # somebody ended it
        except (NoAnswerError, NoSpaceError, StartError, OSError):
            logger.exception("sandbox %s could not be resumed for a request", sandbox.id)
        return sandbox.state is State.RUNNING

    async def variables(self, sandbox: Sandbox) -> dict[str, str]:
        """The environment variables of a running sandbox.

        Raises:
            RefusedError: it does not run.
            NoAnswerError: its program does not answer.
        """
        variables: dict[str, str] = {}

        async def work() -> None:
            if sandbox.state is not State.RUNNING:
                raise RefusedError(sandbox.state, Event.READY)
            variables.update(await sandbox.program.variables())

        await self._turns.take(sandbox, Event.READY, work)
        return variables

    async def copy_files(self, sandbox: Sandbox, target: Path) -> None:
        """Copy the file tree of a running sandbox, which stands still meanwhile.

        Parameters:
            target: where nothing is yet.

        Raises:
            RefusedError: it does not run.
            NoAnswerError: its processes do not stop.
            NoSpaceError, OSError: it could not be copied, or not all of it.
        """
        await self._turns.take(sandbox, Event.PAUSE, lambda: self._changes.copy_files(sandbox, target))

    async def kill(self, sandbox_id: str) -> bool:
        """End the sandbox and everything in it, whatever else is under way. Returns whether there was one."""
        sandbox = self.find(sandbox_id)
        if sandbox is None:
            return False
        await asyncio.shield(self._kill(sandbox, "kill"))
        return True

    async def close(self, *, keep: bool = False) -> None:
        """Make no more sandboxes, and end them all.

        Parameters:
            keep: end only those that are just being made; all others go on without a manager.
        """
        self._closing = True
        await self.pools.close()
        going = [sandbox for sandbox in self._known.values() if not sandbox.state.ending]
        ends = [self._kill(sandbox) for sandbox in going if not keep or sandbox.state is State.STARTING]
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                logger.error("a sandbox did not end well", exc_info=failure)
        self._deadlines.close()
        await self._turns.close()  # what is under way finishes, and what was ending already
        await self._watchers.close()
        for sandbox in self._known.values():
            sandbox.program.release()

    def mounted_volumes(self) -> set[str]:
        """The ids of all volumes that a sandbox has mounted."""
        return {mount.volume_id for sandbox in self._known.values() for mount in sandbox.volume_mounts}

    def program(self, sandbox_id: str, template: Template, volume_mounts: Sequence[VolumeMount] = ()) -> SandboxProgram:
        """The program of a sandbox, not yet started or found."""
        mounts = tuple(Mount(self._volumes / mount.volume_id, mount.path) for mount in volume_mounts)
        return self._program(
            Layout(self.folder / sandbox_id, mounts, Path(template.rootfs) if template.rootfs else None),
            self.runtime,
            code_interpreter=template.code_interpreter,
            limits=template.limits,
            watch=self._limit_watch,
            egress=self._egress,
        )

    def _cold(self, template: Template, volume_mounts: Sequence[VolumeMount]) -> tuple[str, SandboxProgram]:
        sandbox_id = new_sandbox_id()
        return sandbox_id, self.program(sandbox_id, template, volume_mounts)

    def adopt(self, sandbox: Sandbox) -> None:
        """Take over a sandbox of another manager that runs or is paused, as its record says."""
        self._known[sandbox.id] = sandbox
        self._ledger.note(sandbox)
        self._deadlines.arm(sandbox)
        if sandbox.program.identity is not None:
            self._watchers.watch(sandbox)

    def _require_space(self) -> None:
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            raise NoSpaceError(no_space(self.folder))

    def _at_deadline(self, sandbox: Sandbox) -> None:
        logger.info("sandbox %s has reached its end time", sandbox.id)
        if sandbox.state is State.RUNNING and sandbox.lifetime.pause_at_end:
            self._turns.go(self._pause_at_end(sandbox))
        else:
            self._kill(sandbox, "end time")

    async def _pause_at_end(self, sandbox: Sandbox) -> None:
        async def work() -> None:
            if sandbox.state is State.RUNNING and seconds_until(sandbox.end_at) == 0:
                await self._changes.pause(sandbox, memory=sandbox.lifetime.pause_keeps_memory, kept=None)

        try:
            await self._turns.take(sandbox, Event.PAUSE, work)
        except RefusedError:
            return  # somebody ended it meanwhile
        except (NoAnswerError, NoSpaceError, OSError):
            logger.exception("sandbox %s could not be paused at its end time; it is ended", sandbox.id)
            if not sandbox.state.ending:
                self._kill(sandbox, "end time")

    def _kill(self, sandbox: Sandbox, reason: str = "") -> asyncio.Task[None]:
        sandbox.move(Event.KILL)
        if reason:
            self._metrics.ended[reason] += 1
        self._ledger.note(sandbox)  # from here on there is no way back, for the next manager either
        self._deadlines.disarm(sandbox)
        for task in sandbox.work:
            task.cancel()
        return self._turns.go(self._end(sandbox))

    async def _end(self, sandbox: Sandbox) -> None:
        self._watchers.leave(sandbox)
        try:
            async with sandbox.lock:
                await sandbox.program.end()
        finally:
            sandbox.move(Event.ENDED)
            self._known.pop(sandbox.id, None)
            self._ledger.forget(sandbox)
            logger.info("sandbox %s is gone", sandbox.id)

    def _at_end(self, sandbox: Sandbox) -> None:
        """A sandbox whose program has ended by itself is gone; of a paused one the files are left."""
        if sandbox.state is State.PAUSED:
            logger.warning("sandbox %s lost its processes while it was paused", sandbox.id)
            sandbox.program.release()
            sandbox.keeps_memory = False
            self._ledger.note(sandbox)
        elif not sandbox.state.ending:
            logger.warning("sandbox %s ended by itself", sandbox.id)
            self._kill(sandbox, "by itself")
