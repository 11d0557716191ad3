"""The state machine: its table, and what comes out when many operations meet on one sandbox."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.manager.metrics import Metrics
from kruise_agents.manager.runtime import Egress, Layout, ProcessIdentity, ProcessRuntime, Runtime
from kruise_agents.manager.sandboxes.control_client import NoAnswerError
from kruise_agents.manager.sandboxes.lifecycle import Event, RefusedError, State, next_state
from kruise_agents.manager.sandboxes.process import SandboxProcess
from kruise_agents.manager.sandboxes.records import to_row
from kruise_agents.manager.sandboxes.recovery import Found, recover
from kruise_agents.manager.sandboxes.sandbox import Lifetime, NewSandbox, Sandbox, seconds_until
from kruise_agents.manager.sandboxes.service import SandboxService
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.reserve import NoSpaceError
from kruise_agents.manager.state.secret import StateSecret
from kruise_agents.manager.state.tables import SandboxRow
from kruise_agents.manager.templates.model import Template
from kruise_agents.manager.traffic_tokens import TrafficTokens
from support.mutations import times


def test_every_state_but_the_last_ones_takes_a_kill() -> None:
    for state in State:
        if state.ending:
            with pytest.raises(RefusedError):
                next_state(state, Event.KILL)
        else:
            assert next_state(state, Event.KILL) is State.KILLING


def test_every_state_is_reached_and_every_one_leads_to_the_end() -> None:
    def following(state: State) -> set[State]:
        found = set()
        for event in Event:
            try:
                found.add(next_state(state, event))
            except RefusedError:
                continue
        return found

    def reached(state: State) -> set[State]:
        seen, waiting = {state}, [state]
        while waiting:
            for other in following(waiting.pop()) - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    assert reached(State.STARTING) == set(State)
    assert all(State.GONE in reached(state) for state in State)


class PretendedProgram:
    """A pretended program without processes, which takes some time for each step and notices forbidden steps."""

    def __init__(self, layout: Layout, runtime: Runtime, **_: object) -> None:
        self.layout = layout
        self.alive = False
        self.frozen = False
        self.removed = False
        self.answers = True
        self._ended = asyncio.Event()

    @property
    def identity(self) -> ProcessIdentity | None:
        return ProcessIdentity(1, 1, "boot") if self.alive else None

    def launch(self, *, prepared: bool = False) -> None:
        assert not self.alive, "started twice"
        self.layout.root.mkdir(exist_ok=prepared)
        self.alive, self._ended = True, asyncio.Event()

    @property
    def control(self) -> Self:
        return self

    async def attach(self, rules: object) -> None:
        await self._take_time()

    async def claim(
        self, token: str | None, variables: Mapping[str, str], seconds: float | None, *, patience: float = 0
    ) -> None:
        await self._take_time()

    async def set_end_time(self, seconds: float | None, patience: float = 0) -> None:
        await self._answer()
        assert not self.frozen, "a frozen program was asked"

    async def variables(self) -> dict[str, str]:
        await self._answer()
        return {}

    def stopped_processes(self) -> tuple[int, ...]:
        return ()

    async def freeze(self) -> None:
        assert self.alive
        assert not self.frozen, "frozen twice"
        self.frozen = True

    def thaw(self, stopped: tuple[int, ...]) -> None:
        assert self.frozen
        self.frozen = False

    async def ended(self) -> None:
        await self._ended.wait()

    async def stop(self) -> None:
        await self._take_time()
        self.alive = self.frozen = False
        self._ended.set()

    async def end(self) -> None:
        await self.stop()
        self.removed = True

    def release(self) -> None:
        pass

    async def _answer(self) -> None:
        await self._take_time()
        while not self.answers:
            await asyncio.sleep(1)

    async def _take_time(self) -> None:
        for _ in range(random.randrange(6)):
            await asyncio.sleep(0)


Operation = Callable[[SandboxService, Sandbox], Awaitable[Any]]
OPERATIONS: dict[str, Operation] = {
    "pause": lambda sandboxes, sandbox: sandboxes.operations.pause(sandbox),
    "pause files": lambda sandboxes, sandbox: sandboxes.operations.pause(sandbox, memory=False),
    "connect": lambda sandboxes, sandbox: sandboxes.operations.resume(sandbox, 300),
    "reboot": lambda sandboxes, sandbox: sandboxes.operations.resume(sandbox, 300, memory=False),
    "traffic": lambda sandboxes, sandbox: sandboxes.operations.resume_for_traffic(sandbox),
    "timeout": lambda sandboxes, sandbox: sandboxes.operations.set_timeout(sandbox, 600),
    "refresh": lambda sandboxes, sandbox: sandboxes.operations.extend(sandbox, 60),
    "expire": lambda sandboxes, sandbox: sandboxes.operations.expire(sandbox),
    "kill": lambda sandboxes, sandbox: sandboxes.kill(sandbox.id),
}
RESULT = {
    "pause": State.PAUSED,
    "pause files": State.PAUSED,
    "connect": State.RUNNING,
    "reboot": State.RUNNING,
    "traffic": State.RUNNING,
}
"""The states that operations lead to. Operations that are not here change no state that can be seen."""


def expected(outcomes: list[tuple[str, object]]) -> set[State]:
    """Return the possible states after the calls in their order. After a kill at any place the sandbox is gone.

    A connect is refused if a pause that came before it was not done yet. Whether one was whose client left is unknown.
    """
    if any(name == "kill" for name, _ in outcomes):
        return {State.GONE}
    states = {State.RUNNING}
    for name, outcome in outcomes:
        after = State.PAUSED if name == "expire" else RESULT.get(name)
        if after is None or isinstance(outcome, RefusedError):
            continue
        left = isinstance(outcome, asyncio.CancelledError) and name in ("connect", "reboot")
        states = {after} | (states if left else set())
    return states


@pytest.mark.slow
@times(3)
@given(
    calls=st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 5)), min_size=1, max_size=12),
    leaving=st.sets(st.integers(0, 11)),
    seed=st.integers(0, 2**32),
)
def test_whatever_meets_on_one_sandbox_it_ends_in_the_one_right_state(
    calls: list[tuple[str, int]], leaving: set[int], seed: int
) -> None:
    """The operations begin in this order, some steps apart. The clients of some operations leave before the answer."""
    random.seed(seed)
    asyncio.run(meet(calls, leaving))


@pytest.mark.parametrize("first", ["pause files", "connect", "reboot", "timeout"])
def test_a_kill_is_not_stuck_behind_an_operation_that_does_not_end(first: str) -> None:
    async def scene() -> None:
        async with one_sandbox() as (sandboxes, sandbox, store):
            program = cast("PretendedProgram", sandbox.process)
            if first in ("connect", "reboot"):
                await sandboxes.operations.pause(sandbox)
            program.answers = False
            stuck = asyncio.ensure_future(OPERATIONS[first](sandboxes, sandbox))
            waiting = asyncio.ensure_future(sandboxes.operations.pause(sandbox))
            await asyncio.sleep(0.01)
            assert not stuck.done()
            assert await asyncio.wait_for(sandboxes.kill(sandbox.id), 5)
            for refused in (stuck, waiting):
                with pytest.raises(RefusedError):
                    await refused
            check(sandboxes, sandbox, store, State.GONE)

    asyncio.run(scene())


def test_a_boot_that_the_full_disk_cannot_record_leaves_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(row: object) -> None:
        raise NoSpaceError("full")

    async def scene() -> None:
        async with one_sandbox() as (sandboxes, sandbox, store):
            program = cast("PretendedProgram", sandbox.process)
            launch = program.launch

            def launch_and_fill(*, prepared: bool = False) -> None:
                launch(prepared=prepared)
                monkeypatch.setattr(store, "save", refuse)

            await sandboxes.operations.pause(sandbox, memory=False)
            monkeypatch.setattr(program, "launch", launch_and_fill)
            with pytest.raises(NoSpaceError):
                await sandboxes.operations.resume(sandbox, 300)
            assert (sandbox.state, program.alive) == (State.PAUSED, False)
            monkeypatch.undo()
            assert await sandboxes.operations.resume(sandbox, 300)
            check(sandboxes, sandbox, store, State.RUNNING)

    asyncio.run(scene())


@pytest.mark.parametrize("error", [NoAnswerError("forged"), NoSpaceError("full")])
def test_a_reboot_that_cannot_save_the_variables_leaves_a_frozen_program(error: Exception) -> None:
    async def refuse() -> dict[str, str]:
        raise error

    async def scene() -> None:
        async with one_sandbox() as (sandboxes, sandbox, store):
            program = cast("PretendedProgram", sandbox.process)
            await sandboxes.operations.pause(sandbox)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(program, "variables", refuse)
                with pytest.raises(type(error)):
                    await sandboxes.operations.resume(sandbox, 300, memory=False)
            assert (sandbox.state, program.alive, program.frozen) == (State.PAUSED, True, True)
            assert await sandboxes.operations.resume(sandbox, 300)
            check(sandboxes, sandbox, store, State.RUNNING)

    asyncio.run(scene())


def test_a_boot_that_cannot_make_new_files_keeps_the_variables_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed: list[Mapping[str, str]] = []

    async def scene() -> None:
        async with one_sandbox() as (sandboxes, sandbox, store):
            program = cast("PretendedProgram", sandbox.process)
            sandbox.lifetime = replace(sandbox.lifetime, pause_keeps_files=False)

            async def variables() -> dict[str, str]:
                return {"OWN": "kept"}

            async def claim(token: str | None, variables: Mapping[str, str], *_: object) -> None:
                claimed.append(variables)

            async def renew(files: Path | None, error: OSError | None = None) -> None:
                shutil.rmtree(program.layout.root)
                program.layout.root.mkdir()
                if error is not None:
                    raise error

            monkeypatch.setattr(program, "variables", variables)
            monkeypatch.setattr(program, "claim", claim)
            await sandboxes.operations.pause(sandbox, memory=False)
            full = OSError(errno.ENOSPC, "full")
            monkeypatch.setattr(program, "renew", functools.partial(renew, error=full), raising=False)
            with pytest.raises(NoSpaceError):
                await sandboxes.operations.resume(sandbox, 300)
            check(sandboxes, sandbox, store, State.PAUSED)
            monkeypatch.setattr(program, "renew", renew)
            assert await sandboxes.operations.resume(sandbox, 300)
            check(sandboxes, sandbox, store, State.RUNNING)

    asyncio.run(scene())
    assert [variables["OWN"] for variables in claimed] == ["kept"]


def test_a_pause_that_the_end_of_the_manager_cut_off_ends_like_others() -> None:
    async def scene() -> None:
        async with one_sandbox() as (sandboxes, sandbox, store):
            sandbox.lifetime = replace(sandbox.lifetime, paused_seconds=60)
            row = replace(to_row(sandbox, "process"), state="pausing", keeps_memory=0, pid=None)
            await sandboxes.kill(sandbox.id)
            store.save(row)
            sandbox.process.layout.rootfs.mkdir(parents=True)
            assert await recover(sandboxes) == Found(paused=1)
            recovered = sandboxes.find(sandbox.id)
            assert recovered is not None
            assert 50 < (seconds_until(recovered.deadline) or 0) <= 60

    asyncio.run(scene())


@contextlib.asynccontextmanager
async def one_sandbox() -> AsyncIterator[tuple[SandboxService, Sandbox, Database]]:
    with tempfile.TemporaryDirectory() as folder:
        store = Database(Path(folder) / "state.db")
        (Path(folder) / "sandboxes").mkdir()
        sandboxes = SandboxService(
            ProcessRuntime(),
            Path(folder) / "sandboxes",
            store,
            StateSecret(b"x" * 32),
            TrafficTokens(),
            Egress(wanted=False),
            Path(folder) / "volumes",
            Metrics(),
            process_type=cast("type[SandboxProcess]", PretendedProgram),
        )
        sandbox = await sandboxes.create(
            NewSandbox(
                template=Template("base", code_interpreter=False),
                owner="key",
                lifetime=Lifetime(300, pause_at_end=True, wakes_on_traffic=True),
            )
        )
        yield sandboxes, sandbox, store
        await sandboxes.close()
        assert store.select(SandboxRow) == []
        store.close()


async def meet(calls: list[tuple[str, int]], leaving: set[int]) -> None:
    async with one_sandbox() as (sandboxes, sandbox, store):
        tasks = []
        for number, (name, steps) in enumerate(calls):
            tasks.append(asyncio.ensure_future(OPERATIONS[name](sandboxes, sandbox)))
            for _ in range(steps + 1):
                await asyncio.sleep(0)
            if number in leaving:
                tasks[-1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, RefusedError | asyncio.CancelledError), repr(result)
        while sandbox.operations or sandbox.state is State.KILLING:
            await asyncio.sleep(0)
        outcomes = [(name, result) for (name, _), result in zip(calls, results, strict=True)]
        assert sandbox.state in expected(outcomes)
        check(sandboxes, sandbox, store, sandbox.state)


def check(sandboxes: SandboxService, sandbox: Sandbox, store: Database, state: State) -> None:
    program = cast("PretendedProgram", sandbox.process)
    assert sandbox.state is state
    rows = {row.id: row.state for row in store.select(SandboxRow)}
    if state is State.GONE:
        assert rows == {}
        assert (program.alive, program.removed) == (False, True)
        assert sandboxes.find(sandbox.id) is None
        return
    assert rows == {sandbox.id: str(state)}
    assert not program.removed
    assert program.frozen is (state is State.PAUSED and sandbox.keeps_memory)
    assert program.alive is (state is State.RUNNING or sandbox.keeps_memory)
