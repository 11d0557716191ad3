"""The operations on one sandbox: start, pause, resume, timeouts, network rules, copies of its files, and its end.

Operations on a sandbox run one after another, in the order of the calls, and go on if their caller is cancelled. The
end of a sandbox does not wait for its turn, but cancels the running operation and all waiting operations.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..metrics import Metrics
from ..runtime import EgressRules, Runtime
from ..state.database import space_for
from ..state.reserve import NoSpaceError
from .control_client import CLAIM_SECONDS, START_SECONDS, NoAnswerError, StartError
from .exits import Exits
from .lifecycle import Event, RefusedError, State
from .records import Records
from .sandbox import Sandbox, environment, now, seconds_until
from .saved_variables import SavedVariables
from .timers import Timers

LEAST_SECONDS_AFTER_TRAFFIC = 300.0
"""The least time, in seconds, from a resume by traffic to the end time."""
_CLOSE_SECONDS = 5.0

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
FirstFiles = Callable[[Sandbox], Path | None]
_Method = Callable[Concatenate["Operations", Sandbox, P], Coroutine[Any, Any, T]]


def _operation(event: Event, *, needs: State | None = None) -> Callable[[_Method[P, T]], _Method[P, T]]:
    """Make a method run under the lock of its sandbox, in a task that goes on if the caller is cancelled.

    The call raises a :class:`RefusedError` that names ``event`` if the sandbox is ended before or during the operation,
    or is not in the state ``needs`` when the operation gets the lock. An operation may call another operation on the
    same sandbox: the inner operation runs at once, under the same lock.
    """

    def require(sandbox: Sandbox) -> None:
        if sandbox.state.ending or (needs is not None and sandbox.state is not needs):
            raise RefusedError(sandbox.state, event)

    def decorate(method: _Method[P, T]) -> _Method[P, T]:
        @functools.wraps(method)
        async def run(self: Operations, sandbox: Sandbox, /, *args: P.args, **kwargs: P.kwargs) -> T:
            async def locked() -> T:
                async with sandbox.lock:
                    require(sandbox)
                    return await method(self, sandbox, *args, **kwargs)

            if asyncio.current_task() in sandbox.operations:
                require(sandbox)
                return await method(self, sandbox, *args, **kwargs)
            if sandbox.state.ending:
                raise RefusedError(sandbox.state, event)
            task = self._start_task(locked())
            sandbox.operations.add(task)
            task.add_done_callback(sandbox.operations.discard)
            # An error reaches the caller. If the caller has left, the error is dropped.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise RefusedError(sandbox.state, event) from None
                raise

        return run

    return decorate


class Operations:
    """The operations on the sandboxes of one manager, and the timers and exit watchers of these sandboxes.

    An operation raises :class:`RefusedError` if the state of the sandbox does not allow the operation, or if the
    sandbox is ended meanwhile. If the sandbox's program has ended or does not answer, an operation raises
    :class:`StartError` while it starts the program, and otherwise :class:`NoAnswerError`. ``on_gone`` is called
    with each sandbox after its end. ``first_files`` returns the file tree that a sandbox was made from, or None.
    """

    def __init__(
        self,
        runtime: Runtime,
        records: Records,
        metrics: Metrics,
        on_gone: Callable[[Sandbox], None],
        first_files: FirstFiles,
    ) -> None:
        self._first_files = first_files
        self._runtime = runtime
        self._records = records
        self._metrics = metrics
        self._on_gone = on_gone
        self._timers = Timers(self._at_deadline)
        self._exits = Exits(self._at_exit)
        self._tasks: set[asyncio.Task[Any]] = set()

    @_operation(Event.READY)
    async def start(self, sandbox: Sandbox, variables: Mapping[str, str], files: Path | None) -> None:
        """Start a new sandbox: make folders, with a copy of ``files`` if given; launch the program; send the settings.

        A pooled sandbox runs already, and only gets its network rules and settings. After an error the caller must end
        the sandbox.
        """
        lifetime = sandbox.lifetime
        cold = sandbox.process.identity is None
        if cold:
            with space_for(sandbox.process.layout.root):
                if files is not None:
                    await sandbox.process.fill(files)
                sandbox.process.launch(prepared=files is not None)
            self._records.save(sandbox)
            await sandbox.process.attach(sandbox.rules)
            await self._run_start_command(sandbox, {})
        elif sandbox.rules != sandbox.template.within(EgressRules()):
            await sandbox.process.change_rules(sandbox.rules)
        await sandbox.process.claim(
            sandbox.access_token,
            environment(sandbox.id, sandbox.template, variables),
            lifetime.enforced(lifetime.seconds),
            patience=START_SECONDS if cold else CLAIM_SECONDS,
        )
        self._begin_to_run(sandbox, Event.READY, lifetime.seconds)

    def adopt(self, sandbox: Sandbox) -> None:
        """Take over a running or paused sandbox of an earlier manager: save its row, start its timer and watcher."""
        self._records.note(sandbox)
        self._timers.arm(sandbox)
        if sandbox.process.identity is not None:
            self._exits.watch(sandbox)

    @_operation(Event.READY, needs=State.RUNNING)
    async def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Set the end time of a running sandbox to ``seconds`` from now, unless the sandbox never ends."""
        if not sandbox.lifetime.never_ends:
            await sandbox.process.control.set_end_time(sandbox.lifetime.enforced(seconds))
            self._set_end_time(sandbox, seconds)

    @_operation(Event.READY, needs=State.RUNNING)
    async def extend(self, sandbox: Sandbox, seconds: float) -> None:
        """Set a running sandbox's end time to ``seconds`` from now, unless it ends later than that or never ends."""
        left = seconds_until(sandbox.end_at)
        if left is not None and left < seconds:
            await self.set_timeout(sandbox, seconds)

    async def expire(self, sandbox: Sandbox) -> None:
        """Act as if a running sandbox's end time had come: pause or end the sandbox. Has no effect if it never ends."""
        if sandbox.lifetime.never_ends:
            return
        if sandbox.lifetime.pause_at_end:
            await self.pause(sandbox, memory=sandbox.lifetime.pause_keeps_memory)
        elif sandbox.state is State.RUNNING:
            await asyncio.shield(self.end(sandbox, "kill"))
        else:
            raise RefusedError(sandbox.state, Event.KILL)

    @_operation(Event.READY, needs=State.RUNNING)
    async def change_rules(self, sandbox: Sandbox, rules: EgressRules) -> None:
        """Set the rules of a running sandbox. If its template has no internet, only what ``rules`` allow is open."""
        rules = sandbox.template.within(rules)
        await sandbox.process.change_rules(rules)
        sandbox.rules = rules
        self._records.note(sandbox)

    @_operation(Event.READY, needs=State.RUNNING)
    async def read_variables(self, sandbox: Sandbox) -> dict[str, str]:
        return await sandbox.process.control.variables()

    @_operation(Event.PAUSE, needs=State.RUNNING)
    async def copy_files(self, sandbox: Sandbox, target: Path) -> None:
        """Copy the files of a running sandbox, which is frozen meanwhile. A failure may leave an incomplete copy."""
        sandbox.stopped_before = sandbox.process.stopped_processes()
        # Clients see a running, slow sandbox. If this manager ends now, the next one must thaw the sandbox.
        self._records.save_as(sandbox, State.PAUSING)
        try:
            await sandbox.process.freeze()
            with space_for(target):
                await self._runtime.copy(sandbox.process.layout.rootfs, target)
        finally:
            with contextlib.suppress(NoAnswerError):  # the sandbox has ended meanwhile
                sandbox.process.thaw(sandbox.stopped_before)
            if not sandbox.state.ending:
                self._records.note(sandbox)

    @_operation(Event.PAUSE)
    async def pause(self, sandbox: Sandbox, *, memory: bool = True, kept: float | None = None) -> None:
        """Pause a running sandbox: freeze its processes, or, without ``memory``, end them and keep only the files.

        The paused sandbox is ended after ``kept`` seconds (infinity: never; None: as its lifetime says). A sandbox
        that is paused already is not changed. If the pause fails, the state of the sandbox is ``running`` again.
        """
        if sandbox.state is State.PAUSED:
            return
        sandbox.move(Event.PAUSE)
        self._timers.disarm(sandbox)
        try:
            sandbox.keeps_memory, sandbox.stopped_before = memory, sandbox.process.stopped_processes()
            self._records.save(sandbox)
            if memory:
                await sandbox.process.freeze()
            else:
                await self._stop_processes(sandbox)
        except (NoAnswerError, NoSpaceError, OSError):
            sandbox.keeps_memory = True
            self._roll_back(sandbox)
            raise
        sandbox.move(Event.PAUSED)
        sandbox.keep_for(sandbox.lifetime.paused_seconds if kept is None else kept)
        self._timers.arm(sandbox)
        self._records.note(sandbox)
        logger.info("sandbox %s is paused", sandbox.id)

    async def resume(self, sandbox: Sandbox, seconds: float, *, memory: bool = True) -> bool:
        """Resume a paused sandbox for ``seconds``; for ever if it ``never_ends``. A running sandbox is only extended.

        Return whether the sandbox was paused. Without ``memory``, end the processes that the pause has kept, and boot
        the sandbox from its files. If a resume fails, the sandbox is paused again. If a pause is already running or
        waiting for its turn, this call does not undo the pause, and raises :class:`RefusedError`.
        """
        if sandbox.state is State.PAUSING:
            raise RefusedError(sandbox.state, Event.RESUME)
        return await self._resume(sandbox, seconds, memory, sandbox.pauses)

    @_operation(Event.RESUME)
    async def _resume(self, sandbox: Sandbox, seconds: float, memory: bool, pauses: int) -> bool:
        if sandbox.state is not State.PAUSED:
            await self.extend(sandbox, seconds)
            return False
        if sandbox.pauses != pauses:
            raise RefusedError(State.PAUSING, Event.RESUME)  # that pause waited for its turn when the call came
        sandbox.move(Event.RESUME)
        self._timers.disarm(sandbox)
        try:
            self._records.save(sandbox)
            if sandbox.keeps_memory and memory:
                await self._thaw(sandbox, seconds)
            else:
                await self._boot(sandbox, seconds)
        except (NoAnswerError, NoSpaceError, StartError, OSError):
            self._roll_back(sandbox)
            raise
        logger.info("sandbox %s goes on", sandbox.id)
        return True

    async def resume_for_traffic(self, sandbox: Sandbox) -> bool:
        """Resume a paused sandbox whose lifetime has ``wakes_on_traffic``. Return whether the sandbox runs now."""
        if sandbox.lifetime.wakes_on_traffic:
            try:
                await self._resume_if_paused(sandbox)
            except RefusedError:
                return False  # the sandbox was ended
            except (NoAnswerError, NoSpaceError, StartError, OSError):
                logger.exception("sandbox %s could not be resumed for a request", sandbox.id)
        return sandbox.state is State.RUNNING

    def end(self, sandbox: Sandbox, reason: str = "") -> asyncio.Task[None]:
        """Cancel all operations on a sandbox, and return a task that ends it. Metrics count the ``reason``, if any."""
        sandbox.move(Event.KILL)
        if reason:
            self._metrics.ended[reason] += 1
        self._records.note(sandbox)  # so that the next manager ends the sandbox too
        self._timers.disarm(sandbox)
        for task in sandbox.operations:
            task.cancel()
        return self._start_task(self._end(sandbox))

    async def close(self) -> None:
        """Stop timers and watchers. Cancel the operations that are not done within five seconds."""
        self._timers.close()
        if self._tasks:
            _, slow = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in slow:
                task.cancel()
        await self._exits.close()

    def _start_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _begin_to_run(self, sandbox: Sandbox, event: Event, seconds: float) -> None:
        sandbox.move(event)
        sandbox.started_at, sandbox.kept_until = now(), None
        self._set_end_time(sandbox, seconds)
        self._exits.watch(sandbox)

    async def _run_start_command(self, sandbox: Sandbox, variables: Mapping[str, str]) -> None:
        if sandbox.template.start is not None:
            await sandbox.process.control.prepare(
                sandbox.template, environment(sandbox.id, sandbox.template, variables), kernel=False
            )

    def _set_end_time(self, sandbox: Sandbox, seconds: float) -> None:
        never = sandbox.lifetime.never_ends
        sandbox.end_at = None if never else now() + timedelta(seconds=seconds)
        self._timers.arm(sandbox)
        self._records.note(sandbox)

    async def _stop_processes(self, sandbox: Sandbox) -> None:
        with space_for(sandbox.process.layout.root):
            SavedVariables(sandbox.process.layout).save(await sandbox.process.control.variables())
        self._exits.unwatch(sandbox)
        await sandbox.process.stop()

    @_operation(Event.RESUME)
    async def _resume_if_paused(self, sandbox: Sandbox) -> None:
        if sandbox.state is State.PAUSED:
            await self.resume(sandbox, max(sandbox.lifetime.seconds, LEAST_SECONDS_AFTER_TRAFFIC))

    async def _thaw(self, sandbox: Sandbox, seconds: float) -> None:
        sandbox.process.thaw(sandbox.stopped_before)
        try:
            await sandbox.process.control.set_end_time(sandbox.lifetime.enforced(seconds))
        except NoAnswerError:
            await sandbox.process.freeze()
            raise
        self._begin_to_run(sandbox, Event.RESUMED, seconds)

    async def _boot(self, sandbox: Sandbox, seconds: float) -> None:
        saved = SavedVariables(sandbox.process.layout)
        if sandbox.keeps_memory:
            sandbox.process.thaw(sandbox.stopped_before)
            try:
                await self._stop_processes(sandbox)
            except (NoAnswerError, NoSpaceError, OSError):
                await sandbox.process.freeze()
                raise
            sandbox.keeps_memory = False
        variables = environment(sandbox.id, sandbox.template, saved.load())
        if not sandbox.lifetime.pause_keeps_files:
            with space_for(sandbox.process.layout.root.parent):
                try:
                    await sandbox.process.renew(self._first_files(sandbox))
                finally:
                    saved.save(variables)  # for another attempt: the file was in a folder that is replaced
        try:
            sandbox.process.launch(prepared=True)
            self._records.save(sandbox)
            await sandbox.process.attach(sandbox.rules)
            await self._run_start_command(sandbox, variables)
            await sandbox.process.claim(sandbox.access_token, variables, sandbox.lifetime.enforced(seconds))
        except (StartError, NoSpaceError):
            await sandbox.process.stop()
            raise
        sandbox.keeps_memory = True
        self._begin_to_run(sandbox, Event.RESUMED, seconds)
        saved.remove()

    def _roll_back(self, sandbox: Sandbox) -> None:
        sandbox.move(Event.FAILED)
        self._timers.arm(sandbox)
        self._records.note(sandbox)

    async def _end(self, sandbox: Sandbox) -> None:
        self._exits.unwatch(sandbox)
        try:
            async with sandbox.lock:
                await sandbox.process.end()
        finally:
            sandbox.move(Event.ENDED)
            self._on_gone(sandbox)
            self._records.remove(sandbox)
            logger.info("sandbox %s is gone", sandbox.id)

    def _at_deadline(self, sandbox: Sandbox) -> None:
        logger.info("sandbox %s has reached its end time", sandbox.id)
        if sandbox.state is State.RUNNING and sandbox.lifetime.pause_at_end:
            self._start_task(self._pause_at_end(sandbox))
        else:
            self.end(sandbox, "end time")

    async def _pause_at_end(self, sandbox: Sandbox) -> None:
        try:
            await self._pause_if_due(sandbox)
        except RefusedError:
            return  # the sandbox was ended meanwhile
        except (NoAnswerError, NoSpaceError, OSError):
            logger.exception("sandbox %s could not be paused at its end time; it is ended", sandbox.id)
            if not sandbox.state.ending:
                self.end(sandbox, "end time")

    @_operation(Event.PAUSE)
    async def _pause_if_due(self, sandbox: Sandbox) -> None:
        if sandbox.state is State.RUNNING and seconds_until(sandbox.end_at) == 0:
            await self.pause(sandbox, memory=sandbox.lifetime.pause_keeps_memory)

    def _at_exit(self, sandbox: Sandbox) -> None:
        """End a sandbox whose program has ended by itself. A paused sandbox stays, with its files only."""
        if sandbox.state is State.PAUSED:
            logger.warning("sandbox %s lost its processes while it was paused", sandbox.id)
            sandbox.process.release()
            sandbox.keeps_memory = False
            self._records.note(sandbox)
        elif not sandbox.state.ending:
            logger.warning("sandbox %s ended by itself", sandbox.id)
            self.end(sandbox, "by itself")
