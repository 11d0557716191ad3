"""Every sandbox of this manager: made, found, prolonged, paused, resumed, ended.

Operations on one sandbox take turns, in the order in which they came. A kill does not wait: it cancels what is under
way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..runtime import Layout, Runtime
from ..state_secret import StateSecret
from ..store import NoSpaceError, Store, no_space, space_for
from ..traffic_tokens import TrafficTokens
from .deadlines import Deadlines
from .lifecycle import Event, RefusedError, State
from .lifetime import Lifetime
from .model import INTERNAL_VARIABLES, Sandbox, new_sandbox_id, now, seconds_until
from .program import NoAnswerError, SandboxProgram, StartError
from .templates import Template
from .variables import SavedVariables

LEAST_SECONDS_AFTER_WAKING = 300.0
_CLOSE_SECONDS = 5.0
_LEAST_FREE_BYTES = 1024 * 1024
"""A new sandbox takes about a tenth of that."""

logger = logging.getLogger(__name__)


class Sandboxes:
    """The sandboxes of one manager: in memory, and written down as they change.

    Parameters:
        runtime: what runs them.
        folder: where their folders go; it exists.
        store: where they are written down.
        secret: what their access tokens are derived from.
        traffic_tokens: who signs for them.
        program: makes the program of a sandbox; another one for tests of the life cycle alone.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        store: Store,
        secret: StateSecret,
        traffic_tokens: TrafficTokens,
        program: Callable[..., SandboxProgram] = SandboxProgram,
    ) -> None:
        self.traffic_tokens = traffic_tokens
        self.runtime = runtime
        self.folder = folder
        self.store = store
        self.secret = secret
        self._program = program
        self._known: dict[str, Sandbox] = {}
        self._deadlines = Deadlines(self._at_deadline)
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unsaved: set[Sandbox] = set()
        self._closing = False

    def find(self, sandbox_id: str) -> Sandbox | None:
        """The sandbox of that id that runs, rests, or changes between the two; None for all others."""
        sandbox = self._known.get(sandbox_id)
        return None if sandbox is None or sandbox.state is State.STARTING or sandbox.state.ending else sandbox

    def running(self, sandbox_id: str) -> Sandbox | None:
        """The running sandbox of that id, or None."""
        sandbox = self._known.get(sandbox_id)
        return sandbox if sandbox is not None and sandbox.state is State.RUNNING else None

    def all(self) -> list[Sandbox]:
        """Every sandbox that :meth:`find` finds, in no particular order."""
        return [sandbox for sandbox_id in self._known if (sandbox := self.find(sandbox_id)) is not None]

    def is_ending(self, sandbox_id: str) -> bool:
        """Whether a sandbox of that id is just being ended."""
        sandbox = self._known.get(sandbox_id)
        return sandbox is not None and sandbox.state.ending

    async def create(
        self,
        template: Template,
        *,
        lifetime: Lifetime,
        secure: bool,
        metadata: Mapping[str, str],
        variables: Mapping[str, str],
        owner: str = "",
        files: Path | None = None,
    ) -> Sandbox:
        """Start a sandbox; returns when it answers on its ports.

        Parameters:
            secure: whether envd asks for an access token.
            owner: the id of the API key that makes it.
            files: a file tree to begin with a copy of, in place of the template's.

        Raises:
            StartError: its program did not come up. Nothing is left behind.
            NoSpaceError: the disk is full. Nothing is left behind.
        """
        sandbox_id = new_sandbox_id()
        token = self.secret.access_token(sandbox_id) if secure else None
        moment = now()
        sandbox = Sandbox(
            sandbox_id, template, self.program(sandbox_id, template), metadata, token, moment, moment, lifetime, owner
        )
        if self._closing:
            raise StartError("the manager is ending")
        self._require_space()
        self._save(sandbox)  # before anything exists, so that nothing can be left that nobody knows of
        self._known[sandbox_id] = sandbox
        try:
            await self._serially(sandbox, Event.READY, lambda: self._start(sandbox, variables, files))
        except BaseException as error:
            # Whatever ended the start, nothing half-made stays.
            if not sandbox.state.ending:
                await asyncio.shield(self._kill(sandbox))
            if isinstance(error, RefusedError):
                raise StartError("the manager is ending") from error
            raise
        logger.info("sandbox %s runs (template %s)", sandbox_id, template.name)
        return sandbox

    async def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` end, or be paused, in ``seconds`` from now, sooner or later than before; 0 or less: now.

        Raises:
            RefusedError: it does not run.
        """
        await self._serially(sandbox, Event.READY, lambda: self._set_timeout(sandbox, seconds))

    async def extend(self, sandbox: Sandbox, seconds: float) -> None:
        """Let ``sandbox`` live at least ``seconds`` from now; never shortens its life.

        Raises:
            RefusedError: it does not run.
        """
        await self._serially(sandbox, Event.READY, lambda: self._extend(sandbox, seconds))

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
        await self._serially(sandbox, Event.PAUSE, lambda: self._pause(sandbox, memory=memory, kept=kept))

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
            await (self._resume(sandbox, seconds, memory=memory) if was_paused else self._extend(sandbox, seconds))

        await self._serially(sandbox, Event.RESUME, work)
        return was_paused

    async def awaken(self, sandbox: Sandbox) -> bool:
        """Resume ``sandbox`` if it wants that when somebody comes to one of its ports. Returns whether it runs now."""
        if not sandbox.lifetime.wakes_on_traffic:
            return sandbox.state is State.RUNNING

        async def work() -> None:
            if sandbox.state is State.PAUSED:
                seconds = max(sandbox.lifetime.seconds, LEAST_SECONDS_AFTER_WAKING)
                await self._resume(sandbox, seconds, memory=True)

        try:
            await self._serially(sandbox, Event.RESUME, work)
        except RefusedError:
            return False  # somebody ended it
        except (NoAnswerError, NoSpaceError, StartError, OSError):
            logger.exception("sandbox %s could not be resumed for a request", sandbox.id)
        return sandbox.state is State.RUNNING

    async def copy_files(self, sandbox: Sandbox, target: Path) -> None:
        """Copy the file tree of a running sandbox, which stands still meanwhile.

        Parameters:
            target: where nothing is yet.

        Raises:
            RefusedError: it does not run.
            NoAnswerError: its processes do not stop.
            NoSpaceError, OSError: it could not be copied, or not all of it.
        """
        await self._serially(sandbox, Event.PAUSE, lambda: self._copy_files(sandbox, target))

    async def kill(self, sandbox_id: str) -> bool:
        """End the sandbox and everything in it, whatever else is under way. Returns whether there was one."""
        sandbox = self.find(sandbox_id)
        if sandbox is None:
            return False
        await asyncio.shield(self._kill(sandbox))
        return True

    async def close(self, *, keep: bool = False) -> None:
        """Make no more sandboxes, and end them all.

        Parameters:
            keep: end only those that are just being made; all others go on without a manager.
        """
        self._closing = True
        going = [sandbox for sandbox in self._known.values() if not sandbox.state.ending]
        ends = [self._kill(sandbox) for sandbox in going if not keep or sandbox.state is State.STARTING]
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if failure is not None:
                logger.error("a sandbox did not end well", exc_info=failure)
        self._deadlines.close()
        # What is under way finishes, and what was ending already.
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in stuck:
                task.cancel()
        for watcher in list(self._watchers.values()):
            watcher.cancel()
        await asyncio.gather(*self._watchers.values(), return_exceptions=True)
        for sandbox in self._known.values():
            sandbox.program.release()

    def program(self, sandbox_id: str, template: Template) -> SandboxProgram:
        """The program of a sandbox, not yet started or found."""
        layout = Layout(self.folder / sandbox_id)
        return self._program(layout, self.runtime, code_interpreter=template.code_interpreter)

    def adopt(self, sandbox: Sandbox) -> None:
        """Take over a sandbox of another manager that runs or is paused, as its record says."""
        self._known[sandbox.id] = sandbox
        self._note(sandbox)
        self._deadlines.arm(sandbox)
        if sandbox.program.identity is not None:
            self._watch(sandbox)

    def _require_space(self) -> None:
        disk = os.statvfs(self.folder)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            raise NoSpaceError(no_space(self.folder))

    async def _start(self, sandbox: Sandbox, variables: Mapping[str, str], files: Path | None) -> None:
        lifetime = sandbox.lifetime
        with space_for(sandbox.program.layout.root):
            if files is not None:
                await sandbox.program.fill(files)
            sandbox.program.launch(prepared=files is not None)
        self._save(sandbox)
        given = {**variables, **_internal_variables(sandbox)}
        await sandbox.program.claim(sandbox.access_token, given, sandbox.lifetime.enforced(lifetime.seconds))
        self._begin_to_run(sandbox, Event.READY, lifetime.seconds)

    def _begin_to_run(self, sandbox: Sandbox, event: Event, seconds: float) -> None:
        sandbox.move(event)
        sandbox.started_at = now()
        self._end_in(sandbox, seconds)
        self._watch(sandbox)

    async def _set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        if sandbox.state is not State.RUNNING:
            raise RefusedError(sandbox.state, Event.READY)
        if sandbox.lifetime.never_ends:
            return
        if seconds > 0:
            await sandbox.program.set_seconds_left(sandbox.lifetime.enforced(seconds))
        self._end_in(sandbox, seconds)

    async def _extend(self, sandbox: Sandbox, seconds: float) -> None:
        left = seconds_until(sandbox.end_at)
        if sandbox.state is not State.RUNNING or (left is not None and left < seconds):
            await self._set_timeout(sandbox, seconds)

    def _end_in(self, sandbox: Sandbox, seconds: float) -> None:
        never = sandbox.lifetime.never_ends
        sandbox.end_at = None if never else now() + timedelta(seconds=max(seconds, 0))
        self._deadlines.arm(sandbox)
        self._note(sandbox)

    async def _pause(self, sandbox: Sandbox, *, memory: bool, kept: float | None) -> None:
        if sandbox.state is State.PAUSED:
            return
        sandbox.move(Event.PAUSE)
        self._deadlines.disarm(sandbox)
        try:
            sandbox.keeps_memory, sandbox.asleep = memory, sandbox.program.asleep()
            self._save(sandbox)
            if memory:
                await sandbox.program.freeze()
            else:
                await self._keep_files_only(sandbox)
        except (NoAnswerError, NoSpaceError, OSError):
            sandbox.move(Event.FAILED)
            self._deadlines.arm(sandbox)
            raise
        sandbox.move(Event.PAUSED)
        sandbox.end_at = now()
        kept = sandbox.lifetime.paused_seconds if kept is None else kept
        sandbox.kept_until = None if kept is None or kept == math.inf else now() + timedelta(seconds=kept)
        self._deadlines.arm(sandbox)
        self._note(sandbox)
        logger.info("sandbox %s is paused", sandbox.id)

    async def _keep_files_only(self, sandbox: Sandbox) -> None:
        with space_for(sandbox.program.layout.root):
            SavedVariables(sandbox.program.layout).save(await sandbox.program.variables())
        self._unwatch(sandbox)
        await sandbox.program.stop()

    async def _copy_files(self, sandbox: Sandbox, target: Path) -> None:
        if sandbox.state is not State.RUNNING:
            raise RefusedError(sandbox.state, Event.PAUSE)
        sandbox.asleep = sandbox.program.asleep()
        # For clients it runs, a little slowly. A manager that ends now leaves it frozen, and this tells the next one.
        self.store.save_sandbox(replace(sandbox.row(self.runtime.name), state=str(State.PAUSING)))
        try:
            await sandbox.program.freeze()
            with space_for(target):
                await self.runtime.copy(sandbox.program.layout.rootfs, target)
        finally:
            with contextlib.suppress(NoAnswerError):  # it has ended meanwhile
                sandbox.program.thaw(sandbox.asleep)
            if not sandbox.state.ending:
                self._note(sandbox)

    async def _resume(self, sandbox: Sandbox, seconds: float, *, memory: bool) -> None:
        sandbox.move(Event.RESUME)
        self._deadlines.disarm(sandbox)
        try:
            self._save(sandbox)
            if sandbox.keeps_memory and memory:
                await self._thaw(sandbox, seconds)
            else:
                await self._boot(sandbox, seconds)
        except (NoAnswerError, NoSpaceError, StartError, OSError):
            sandbox.move(Event.FAILED)
            self._deadlines.arm(sandbox)
            raise
        sandbox.kept_until = None
        logger.info("sandbox %s goes on", sandbox.id)

    async def _thaw(self, sandbox: Sandbox, seconds: float) -> None:
        sandbox.program.thaw(sandbox.asleep)
        try:
            await sandbox.program.set_seconds_left(sandbox.lifetime.enforced(seconds))
        except NoAnswerError:
            await sandbox.program.freeze()
            raise
        self._begin_to_run(sandbox, Event.RESUMED, seconds)

    async def _boot(self, sandbox: Sandbox, seconds: float) -> None:
        saved = SavedVariables(sandbox.program.layout)
        if sandbox.keeps_memory:
            sandbox.program.thaw(sandbox.asleep)
            await self._keep_files_only(sandbox)
            sandbox.keeps_memory = False
        sandbox.program.launch(prepared=True)
        self._save(sandbox)
        variables = {**saved.load(), **_internal_variables(sandbox)}
        try:
            await sandbox.program.claim(sandbox.access_token, variables, sandbox.lifetime.enforced(seconds))
        except StartError:
            await sandbox.program.stop()
            raise
        sandbox.keeps_memory = True
        self._begin_to_run(sandbox, Event.RESUMED, seconds)
        saved.remove()

    def _at_deadline(self, sandbox: Sandbox) -> None:
        logger.info("sandbox %s has reached its end time", sandbox.id)
        if sandbox.state is State.RUNNING and sandbox.lifetime.pause_at_end:
            self._keep(self._pause_at_end(sandbox))
        else:
            self._kill(sandbox)

    async def _pause_at_end(self, sandbox: Sandbox) -> None:
        async def work() -> None:
            if sandbox.state is State.RUNNING and seconds_until(sandbox.end_at) == 0:
                await self._pause(sandbox, memory=sandbox.lifetime.pause_keeps_memory, kept=None)

        try:
            await self._serially(sandbox, Event.PAUSE, work)
        except RefusedError:
            return  # somebody ended it meanwhile
        except (NoAnswerError, NoSpaceError, OSError):
            logger.exception("sandbox %s could not be paused at its end time; it is ended", sandbox.id)
            if not sandbox.state.ending:
                self._kill(sandbox)

    async def _serially(self, sandbox: Sandbox, event: Event, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` when it is its turn. It goes on when its caller leaves, and stops when the sandbox is killed.

        Raises:
            RefusedError: the sandbox was, or is being, killed.
        """

        async def run() -> None:
            async with sandbox.lock:
                if sandbox.state.ending:
                    raise RefusedError(sandbox.state, event)
                await work()

        if sandbox.state.ending:
            raise RefusedError(sandbox.state, event)
        task = asyncio.create_task(run())
        sandbox.work.add(task)
        task.add_done_callback(sandbox.work.discard)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # An error reaches the caller; when that has left, nobody else wants to know.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise RefusedError(sandbox.state, event) from None
            raise

    def _kill(self, sandbox: Sandbox) -> asyncio.Task[None]:
        sandbox.move(Event.KILL)
        self._note(sandbox)  # from here on there is no way back, for the next manager either
        self._deadlines.disarm(sandbox)
        for task in sandbox.work:
            task.cancel()
        return self._keep(self._end(sandbox))

    async def _end(self, sandbox: Sandbox) -> None:
        self._unwatch(sandbox)
        try:
            async with sandbox.lock:
                await sandbox.program.end()
        finally:
            sandbox.move(Event.ENDED)
            self._known.pop(sandbox.id, None)
            self._unsaved.discard(sandbox)
            try:
                self.store.remove_sandbox(sandbox.id)
            except NoSpaceError:
                logger.warning("sandbox %s is gone; the next start of the manager takes it off the list", sandbox.id)
            logger.info("sandbox %s is gone", sandbox.id)

    def _watch(self, sandbox: Sandbox) -> None:
        self._unwatch(sandbox)
        self._watchers[sandbox.id] = asyncio.create_task(self._await_end(sandbox))

    def _unwatch(self, sandbox: Sandbox) -> None:
        watcher = self._watchers.pop(sandbox.id, None)
        if watcher is not None and watcher is not asyncio.current_task():
            watcher.cancel()

    async def _await_end(self, sandbox: Sandbox) -> None:
        """A sandbox whose program ends by itself is gone; of a paused one the files are left."""
        await sandbox.program.ended()
        self._watchers.pop(sandbox.id, None)
        if sandbox.state is State.PAUSED:
            logger.warning("sandbox %s lost its processes while it was paused", sandbox.id)
            sandbox.program.release()
            sandbox.keeps_memory = False
            self._note(sandbox)
        elif not sandbox.state.ending:
            logger.warning("sandbox %s ended by itself", sandbox.id)
            self._kill(sandbox)

    def _save(self, sandbox: Sandbox) -> None:
        """Write down what must be written before the next step.

        Raises:
            NoSpaceError: the disk is full.
        """
        self.store.save_sandbox(sandbox.row(self.runtime.name))
        self._unsaved.discard(sandbox)
        for late in list(self._unsaved):
            self._unsaved.discard(late)
            self._note(late)

    def _note(self, sandbox: Sandbox) -> None:
        """Write down what has happened already; with a full disk it is done as soon as there is space."""
        try:
            self._save(sandbox)
        except NoSpaceError:
            logger.warning("sandbox %s changed, and the disk is too full to write it down", sandbox.id)
            self._unsaved.add(sandbox)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _internal_variables(sandbox: Sandbox) -> dict[str, str]:
    return dict(zip(INTERNAL_VARIABLES, ("true", sandbox.id, sandbox.template.name), strict=True))
