"""What is done to one sandbox by the operation whose turn it is: started, timed, paused, copied, resumed."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from ..runtime import EgressRules, Runtime
from ..state.database import NoSpaceError, space_for
from .exits import Exits
from .lifecycle import Event, RefusedError, State
from .program import CLAIM_SECONDS, START_SECONDS, NoAnswerError, StartError
from .records import Records
from .sandbox import Sandbox, internal_variables, now, seconds_until
from .saved_variables import SavedVariables
from .timers import Timers

logger = logging.getLogger(__name__)


class Changes:
    """The changes, over what has to follow each of them.

    A sandbox that is killed in the middle of one has the state that the kill gave it; the change is cancelled, and an
    event that comes too late is refused.
    """

    def __init__(self, runtime: Runtime, ledger: Records, deadlines: Timers, watchers: Exits) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._deadlines = deadlines
        self._watchers = watchers

    async def start(self, sandbox: Sandbox, variables: Mapping[str, str], files: Path | None) -> None:
        """Copy its files or make them, launch its program, and claim it; one from a pool is launched already.

        Raises:
            StartError, NoSpaceError, OSError: what is left has to be ended.
        """
        lifetime = sandbox.lifetime
        cold = sandbox.program.identity is None
        if cold:
            with space_for(sandbox.program.layout.root):
                if files is not None:
                    await sandbox.program.fill(files)
                sandbox.program.launch(prepared=files is not None)
            self._ledger.save(sandbox)
            await sandbox.program.attach(sandbox.rules)
            await self._run_start_command(sandbox, {})
        elif sandbox.rules != sandbox.template.within(EgressRules()):
            await sandbox.program.change_rules(sandbox.rules)
        given, seconds = self._variables(sandbox, variables), lifetime.enforced(lifetime.seconds)
        patience = START_SECONDS if cold else CLAIM_SECONDS
        await sandbox.program.claim(sandbox.access_token, given, seconds, patience=patience)
        self._begin_to_run(sandbox, Event.READY, lifetime.seconds)

    def _variables(self, sandbox: Sandbox, given: Mapping[str, str]) -> dict[str, str]:
        return {**sandbox.template.variables, **given, **internal_variables(sandbox.id, sandbox.template)}

    async def _run_start_command(self, sandbox: Sandbox, given: Mapping[str, str]) -> None:
        if sandbox.template.start is not None:
            await sandbox.program.prepare(sandbox.template, self._variables(sandbox, given), kernel=False)

    def _begin_to_run(self, sandbox: Sandbox, event: Event, seconds: float) -> None:
        sandbox.move(event)
        sandbox.started_at, sandbox.kept_until = now(), None
        self._end_in(sandbox, seconds)
        self._watchers.watch(sandbox)

    async def set_timeout(self, sandbox: Sandbox, seconds: float) -> None:
        """Let it end, or be paused, in ``seconds``; with 0 the deadline comes at once."""
        if sandbox.state is not State.RUNNING:
            raise RefusedError(sandbox.state, Event.READY)
        if sandbox.lifetime.never_ends:
            return
        if seconds > 0:
            await sandbox.program.set_seconds_left(sandbox.lifetime.enforced(seconds))
        self._end_in(sandbox, seconds)

    async def change_rules(self, sandbox: Sandbox, rules: EgressRules) -> None:
        """Let it reach something else outside."""
        if sandbox.state is not State.RUNNING:
            raise RefusedError(sandbox.state, Event.READY)
        rules = sandbox.template.within(rules)
        await sandbox.program.change_rules(rules)
        sandbox.rules = rules
        self._ledger.note(sandbox)

    async def extend(self, sandbox: Sandbox, seconds: float) -> None:
        """Let it live at least ``seconds`` from now."""
        left = seconds_until(sandbox.end_at)
        if sandbox.state is not State.RUNNING or (left is not None and left < seconds):
            await self.set_timeout(sandbox, seconds)

    def _end_in(self, sandbox: Sandbox, seconds: float) -> None:
        never = sandbox.lifetime.never_ends
        sandbox.end_at = None if never else now() + timedelta(seconds=max(seconds, 0))
        self._deadlines.arm(sandbox)
        self._ledger.note(sandbox)

    async def pause(self, sandbox: Sandbox, *, memory: bool, kept: float | None) -> None:
        """Stop it. After an error it runs as before, unless its program has ended."""
        if sandbox.state is State.PAUSED:
            return
        sandbox.move(Event.PAUSE)
        self._deadlines.disarm(sandbox)
        try:
            sandbox.keeps_memory, sandbox.asleep = memory, sandbox.program.asleep()
            self._ledger.save(sandbox)
            if memory:
                await sandbox.program.freeze()
            else:
                await self._keep_files_only(sandbox)
        except (NoAnswerError, NoSpaceError, OSError):
            sandbox.keeps_memory = True
            self._take_back(sandbox)
            raise
        sandbox.move(Event.PAUSED)
        sandbox.end_at = now()
        kept = sandbox.lifetime.paused_seconds if kept is None else kept
        sandbox.kept_until = None if kept is None or kept == math.inf else now() + timedelta(seconds=kept)
        self._deadlines.arm(sandbox)
        self._ledger.note(sandbox)
        logger.info("sandbox %s is paused", sandbox.id)

    async def _keep_files_only(self, sandbox: Sandbox) -> None:
        with space_for(sandbox.program.layout.root):
            SavedVariables(sandbox.program.layout).save(await sandbox.program.variables())
        self._watchers.leave(sandbox)
        await sandbox.program.stop()

    async def copy_files(self, sandbox: Sandbox, target: Path) -> None:
        """Copy its file tree while it stands still."""
        if sandbox.state is not State.RUNNING:
            raise RefusedError(sandbox.state, Event.PAUSE)
        sandbox.asleep = sandbox.program.asleep()
        # For clients it runs, a little slowly. A manager that ends now leaves it frozen, and this tells the next one.
        self._ledger.save_as(sandbox, State.PAUSING)
        try:
            await sandbox.program.freeze()
            with space_for(target):
                await self._runtime.copy(sandbox.program.layout.rootfs, target)
        finally:
            with contextlib.suppress(NoAnswerError):  # it has ended meanwhile
                sandbox.program.thaw(sandbox.asleep)
            if not sandbox.state.ending:
                self._ledger.note(sandbox)

    async def resume(self, sandbox: Sandbox, seconds: float, *, memory: bool) -> None:
        """Let a paused one go on, or boot it. After an error it is paused as before."""
        sandbox.move(Event.RESUME)
        self._deadlines.disarm(sandbox)
        try:
            self._ledger.save(sandbox)
            if sandbox.keeps_memory and memory:
                await self._thaw(sandbox, seconds)
            else:
                await self._boot(sandbox, seconds)
        except (NoAnswerError, NoSpaceError, StartError, OSError):
            self._take_back(sandbox)
            raise
        logger.info("sandbox %s goes on", sandbox.id)

    def _take_back(self, sandbox: Sandbox) -> None:
        sandbox.move(Event.FAILED)
        self._deadlines.arm(sandbox)
        self._ledger.note(sandbox)

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
        self._ledger.save(sandbox)
        variables = self._variables(sandbox, saved.load())
        try:
            await sandbox.program.attach(sandbox.rules)
            await self._run_start_command(sandbox, variables)
            await sandbox.program.claim(sandbox.access_token, variables, sandbox.lifetime.enforced(seconds))
        except StartError:
            await sandbox.program.stop()
            raise
        sandbox.keeps_memory = True
        self._begin_to_run(sandbox, Event.RESUMED, seconds)
        saved.remove()
