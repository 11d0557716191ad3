"""Contexts through the SDK: made, listed, restarted, removed, side by side."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from e2b.exceptions import NotFoundException
from e2b_code_interpreter import Context, Sandbox

from kruise_agents.sandbox.code_interpreter import launcher
from kruise_agents.sandbox.code_interpreter.contexts import Contexts
from kruise_agents.sandbox.code_interpreter.errors import KernelStartError
from kruise_agents.sandbox.code_interpreter.kernels import Kernel
from kruise_agents.sandbox.code_interpreter.languages import KernelSpec
from kruise_agents.sandbox.code_interpreter.launcher import KernelLauncher
from kruise_agents.sandbox.state import SandboxState


def test_contexts_do_not_share_state(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("only_here = 1", context=context)
    error = sandbox.run_code("only_here").error
    assert error is not None
    assert error.name == "NameError"


def test_contexts_are_listed_in_the_order_of_their_creation(sandbox: Sandbox, served: Any) -> None:
    first, second = sandbox.create_code_context(cwd="/"), sandbox.create_code_context(language="python")
    listed = [one for one in sandbox.list_code_contexts() if one.id in (first.id, second.id)]
    assert [(one.id, one.language, one.cwd) for one in listed] == [
        (first.id, "python", "/"),
        (second.id, "python", str(served.state.home)),
    ]
    assert sandbox.list_code_contexts()[0].id not in (first.id, second.id)
    for one in (first, second):
        sandbox.remove_code_context(one)


def test_a_context_starts_in_its_folder_and_again_after_a_restart(sandbox: Sandbox, tmp_path: Any) -> None:
    context = sandbox.create_code_context(cwd=str(tmp_path))
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == str(tmp_path)
    sandbox.run_code("os.chdir('/')", context=context)
    sandbox.restart_code_context(context)
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == str(tmp_path)


@pytest.mark.parametrize("folder", ["/no/such/folder", "/" + 300 * "x"])
def test_a_missing_folder_leaves_the_context_at_home(sandbox: Sandbox, served: Any, folder: str) -> None:
    context = sandbox.create_code_context(cwd=folder)
    assert context.cwd == folder
    assert sandbox.run_code("import os; os.getcwd()", context=context).text == str(served.state.home)


def test_a_restart_forgets_state_and_count_and_keeps_the_id(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("gone = 1", context=context)
    before = [one.id for one in sandbox.list_code_contexts()]
    sandbox.restart_code_context(context)
    execution = sandbox.run_code("gone", context=context)
    assert execution.error is not None
    assert execution.error.name == "NameError"
    assert execution.execution_count == 1
    assert [one.id for one in sandbox.list_code_contexts()] == before


def test_a_removed_context_is_not_found(sandbox: Sandbox, context: Context) -> None:
    sandbox.remove_code_context(context.id)
    assert context.id not in [one.id for one in sandbox.list_code_contexts()]
    for use in (sandbox.remove_code_context, sandbox.restart_code_context):
        with pytest.raises(NotFoundException, match=f"Context {context.id} not found"):
            use(context)
    with pytest.raises(NotFoundException, match=f"Context {context.id} not found"):
        sandbox.run_code("1", context=context)


def test_a_removed_default_context_is_made_anew(sandbox: Sandbox) -> None:
    sandbox.run_code("default_state = 1")
    for one in sandbox.list_code_contexts():
        sandbox.remove_code_context(one)
    assert sandbox.list_code_contexts() == []
    execution = sandbox.run_code("default_state")
    assert execution.error is not None
    assert execution.error.name == "NameError"
    assert sandbox.run_code("2", language="python").execution_count == 2
    assert len(sandbox.list_code_contexts()) == 1


class NeverReady:
    """A launcher whose kernels never become ready."""

    spec = KernelSpec(("kernel",))

    async def start(self, *_: object) -> Kernel:
        return await asyncio.Event().wait()  # type: ignore[return-value]  # never returns


def test_a_default_context_may_be_removed_while_its_start_is_awaited(tmp_path: Path) -> None:
    async def run() -> None:
        state = SandboxState(username="user", home=tmp_path, path="/bin", python=Path("/python"))
        contexts = Contexts(state, cast(KernelLauncher, NeverReady()))
        contexts.default()
        failure = asyncio.create_task(contexts.failure())
        await asyncio.sleep(0)
        await contexts.close()
        assert await failure is None

    asyncio.run(run())


def test_contexts_run_in_parallel(sandbox: Sandbox, context: Context, tmp_path: Any) -> None:
    """Each context waits for a file of the other context, so both fail if they run one after the other."""
    code = (
        "import pathlib, time\nfolder = pathlib.Path({folder!r})\n(folder / {mine!r}).touch()\n"
        "end = time.monotonic() + 20\n"
        "while not (folder / {other!r}).exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "(folder / {other!r}).exists()"
    )
    texts: dict[str, str | None] = {}

    def run(mine: str, other: str, where: Context | None) -> None:
        cell = code.format(folder=str(tmp_path), mine=mine, other=other)
        texts[mine] = sandbox.run_code(cell, context=where).text

    threads = [
        threading.Thread(target=run, args=("a", "b", None)),
        threading.Thread(target=run, args=("b", "a", context)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {"a": "True", "b": "True"}


def test_executions_in_one_context_run_one_after_another(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("import time\nrunning = 0", context=context)
    code = "assert running == 0\nrunning += 1\ntime.sleep(0.05)\nrunning -= 1\n'alone'"
    executions: list[Any] = []
    threads = [
        threading.Thread(target=lambda: executions.append(sandbox.run_code(code, context=context))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.text for one in executions] == ["alone"] * 4
    assert sorted(one.execution_count for one in executions) == [2, 3, 4, 5]


def test_a_kernel_without_free_ports_is_a_kernel_that_did_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_ports() -> tuple[int, ...]:
        raise OSError("Too many open files")

    monkeypatch.setattr(launcher, "free_ports", no_ports)
    started = KernelLauncher(tmp_path, tmp_path, cast(Any, None)).start(KernelSpec((), transport="tcp"), {}, tmp_path)
    with pytest.raises(KernelStartError, match="Too many open files"):
        asyncio.run(started)
