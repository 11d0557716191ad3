"""The plugin of the installed wheel, with other releases of the SDK."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.environments import sdk_environment
from support.managers import RunningManager
from support.programs import run_command

SUITE = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
@pytest.mark.parametrize("number", range(LOOPS))  # each in a loop of its own
async def test_asynchronous(async_e2b_sandbox, number):
    assert (await async_e2b_sandbox.run_code(f"{number} + 1")).text == str(number + 1)
    assert (await async_e2b_sandbox.commands.run("echo hello")).stdout == "hello\\n"
    await async_e2b_sandbox.files.write("note", "text")

def test_synchronous(e2b_sandbox_factory):
    first, second = e2b_sandbox_factory(), e2b_sandbox_factory(timeout=60)
    assert first.run_code("1 + 1").text == "2"
    assert first.sandbox_id != second.sandbox_id
"""


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("pair", "loops"),
    # Before 2.15.2 the SDK keeps its asynchronous connections for the whole process, so only one loop can use them.
    [("oldest", 1), ("2.25", 3), ("2.35", 3), ("newest", 3)],
)
def test_the_fixtures_work_with_other_sdks(pair: str, loops: int, manager: RunningManager, tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE.replace("LOOPS", str(loops)))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "E2B_API_KEY": manager.api_key}
    # kruise_agents is imported before pytest, as by a wrapper of programs; pytest must not warn of that.
    start = "import kruise_agents, pytest; raise SystemExit(pytest.main())"
    command = [str(sdk_environment(pair)), "-c", start]
    variables = {
        "PYTEST_ADDOPTS": f"--e2b-domain {manager.domain} --e2b-http -W error::pytest.PytestAssertRewriteWarning"
    }
    said = run_command(command, environment | variables, tmp_path)
    assert f" {loops + 1} passed" in said
    assert "rewritten" not in said
