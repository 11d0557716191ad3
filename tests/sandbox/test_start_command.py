"""A template's start command and its check, whose processes end with them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from kruise_agents.protocol.control import ReadyCheck
from kruise_agents.sandbox import start_command
from kruise_agents.sandbox.start_command import NotReadyError, run_start_command
from kruise_agents.sandbox.state import SandboxState
from support.managers import processes_with, wait_for

pytestmark = pytest.mark.live


@pytest.fixture
def state(tmp_path: Path) -> SandboxState:
    return SandboxState("user", tmp_path, os.environ["PATH"], Path(sys.executable))


def test_nothing_is_left_of_a_start_command_whose_check_fails(state: SandboxState) -> None:
    command = "setsid sleep 971280 & sleep 971280 | cat; true"
    with pytest.raises(NotReadyError, match="did not succeed within"):
        asyncio.run(run_start_command(state, command, ReadyCheck(command="false", seconds=0.5)))
    wait_for(lambda: processes_with("sleep 971280") == [])


def test_nothing_is_left_of_a_check_that_takes_too_long(state: SandboxState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_command, "_TRY_SECONDS", 0.2)
    check = ReadyCheck(command="setsid sleep 971281 & sleep 971281 | cat; true", seconds=0.5)
    with pytest.raises(NotReadyError):
        asyncio.run(run_start_command(state, "sleep 971282", check))
    wait_for(lambda: processes_with("sleep 97128") == [])


@pytest.mark.parametrize("ready", [None, ReadyCheck(command="true", seconds=10)], ids=["no check", "a check"])
@pytest.mark.parametrize("moment", ["", "sleep 0.3; "], ids=["at once", "later"])
def test_a_start_command_that_fails_leaves_its_last_output_in_the_log(
    moment: str, ready: ReadyCheck | None, state: SandboxState, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        with contextlib.suppress(NotReadyError):  # if it ends before the check
            await run_start_command(state, f"{moment}echo boom; exit 3", ready)
            async with asyncio.timeout(20):
                while not caplog.records:
                    await asyncio.sleep(0.01)
            assert caplog.messages == ["the start command ended with code 3; its last output:\nboom"]
            assert caplog.records[0].levelname == "WARNING"

    asyncio.run(scene())


def test_a_start_command_that_ends_well_leaves_nothing(state: SandboxState, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        await run_start_command(state, "echo fine", None)
        async with asyncio.timeout(20):
            while len(list(Path("/proc/self/fd").iterdir())) > before:
                await asyncio.sleep(0.01)

    asyncio.run(scene())
    assert caplog.records == []
