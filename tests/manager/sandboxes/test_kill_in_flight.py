"""Calls to a sandbox that ends during the call, or that has ended before."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from e2b.exceptions import TimeoutException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from support.managers import RunningManager, children, wait_for

CELL = "print('begun', flush=True)\nimport time\ntime.sleep(60)"
COMMAND = "trap 'echo asked to end' TERM; echo begun; while :; do sleep 0.05; done"
KILLED = {
    "run_code": "The sandbox was killed while the request was in progress",
    "commands.run": "was killed or reached its end of life while the request was in flight",
}
ENDS: dict[str, Callable[[Sandbox], object]] = {
    "kill": lambda sandbox: sandbox.kill(),
    "time": lambda sandbox: sandbox.set_timeout(0),
}


def call(sandbox: Sandbox, name: str, heard: Callable[[str], None]) -> object:
    if name == "run_code":
        return sandbox.run_code(CELL, on_stdout=lambda message: heard(message.line))
    return sandbox.commands.run(COMMAND, on_stdout=heard, timeout=0)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", KILLED)
def test_a_call_in_flight_says_that_the_sandbox_was_killed(sandbox: Sandbox, name: str, end: str) -> None:
    """The programs in the sandbox are not asked to end first."""
    begun = threading.Event()
    said: list[str] = []

    def heard(text: str) -> None:
        said.append(text)
        begun.set()

    def end_it() -> None:
        begun.wait(30)
        ENDS[end](sandbox)

    ending = threading.Thread(target=end_it)
    ending.start()
    with pytest.raises(TimeoutException, match=KILLED[name]):
        call(sandbox, name, heard)
    ending.join()
    assert "".join(said) == "begun\n"


def test_a_transfer_in_flight_is_cut(sandbox: Sandbox) -> None:
    pieces = iter(sandbox.files.read("/dev/zero", format="stream"))
    assert next(pieces)
    sandbox.kill()
    with pytest.raises(httpx.TransportError):
        for _ in pieces:
            pass


def test_the_async_sdk_says_so_too(manager: RunningManager, patched: None) -> None:
    async def run() -> None:
        sandbox = await AsyncSandbox.create(domain=manager.domain, api_key=manager.api_key)

        async def kill(message: Any) -> None:
            await sandbox.kill()

        await sandbox.run_code(CELL, on_stdout=kill)

    with pytest.raises(TimeoutException, match=KILLED["run_code"]):
        asyncio.run(run())


def test_a_call_after_the_end_says_how_to_have_more_time(sandbox: Sandbox) -> None:
    sandbox.kill()
    for use in (lambda: sandbox.run_code("1"), sandbox.list_code_contexts, sandbox.create_code_context):
        with pytest.raises(TimeoutException, match=r"was not found.*likely due to sandbox timeout"):
            use()


def test_a_kill_ends_a_sandbox_whose_own_processes_are_stopped(manager: RunningManager, patched: None) -> None:
    before = set(children(manager.process.pid))
    sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key)
    launched = set(children(manager.process.pid)) - before
    assert launched
    for pid in launched:
        os.kill(pid, signal.SIGSTOP)
    assert sandbox.kill(request_timeout=30) is True
    wait_for(lambda: not launched & set(children(manager.process.pid)))
