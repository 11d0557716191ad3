"""Tests with the fixtures of kruise-agents. Run them with ``pytest``, here or with ``--e2b-domain`` on a cluster."""

from collections.abc import Callable

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox
from word_count import count_words


@pytest.mark.usefixtures("e2b_manager")  # count_words makes its own sandbox
def test_words_are_counted() -> None:
    assert count_words("to be or not to be") == 6


@pytest.mark.parametrize(("code", "result"), [("6 * 7", "42"), ("'a' + 'b'", "ab")])
def test_code_runs(e2b_sandbox: Sandbox, code: str, result: str) -> None:
    assert e2b_sandbox.run_code(code).text == result


def test_two_sandboxes_share_no_file(e2b_sandbox_factory: Callable[..., Sandbox]) -> None:
    first, second = e2b_sandbox_factory(), e2b_sandbox_factory(envs={"NAME": "second"})
    first.files.write("note.txt", "mine")
    assert not second.files.exists("note.txt")
    assert second.commands.run("echo $NAME").stdout == "second\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio  # the plugin of anyio comes with the SDK; with pytest-asyncio write its mark
async def test_asynchronous_code(async_e2b_sandbox: AsyncSandbox) -> None:
    execution = await async_e2b_sandbox.run_code("1 + 1")
    assert execution.text == "2"
