"""The modules that a sandbox's two processes load, and the folders that a kernel may start in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.sandbox.code_interpreter import forked_kernel
from kruise_agents.sandbox.code_interpreter.app import CodeInterpreter
from kruise_agents.sandbox.state import SandboxState

pytestmark = pytest.mark.live


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split())


def test_the_server_loads_nothing_of_a_kernel() -> None:
    heavy = {"IPython", "ipykernel", "jupyter_client", "traitlets", "tornado"}
    assert loaded_by("kruise_agents.sandbox.code_interpreter.app") & heavy == set()


def test_a_kernel_loads_nothing_of_the_server() -> None:
    assert loaded_by("kruise_agents.sandbox.code_interpreter.kernel.application") & {"starlette"} == set()


def test_a_kernel_starts_in_an_environment_that_does_not_know_this_package(tmp_path: Path, serve: object) -> None:
    """A sandbox has such an environment: a layer of its own before the packages of this environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "layer"], check=True)
    (site,) = (tmp_path / "layer").glob("lib/python*/site-packages")
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    (site / "below.pth").write_text("\n".join(packages))
    with serve(str(tmp_path / "layer" / "bin" / "python")) as served:  # type: ignore[operator]  # the fixture is a function
        sandbox = served.sandbox()
        assert sandbox.run_code("import sys; sys.prefix").text == str(tmp_path / "layer")
        paths = sandbox.run_code("[p for p in sys.path if p]").results[0].json
        assert paths.index(str(site)) < paths.index(packages[0])


def test_a_waiting_kernel_that_was_killed_is_not_used_again() -> None:
    waiting = forked_kernel.fork()
    assert isinstance(waiting, forked_kernel.WaitingKernel)
    os.kill(waiting.pid, signal.SIGKILL)
    os.waitid(os.P_PID, waiting.pid, os.WEXITED | os.WNOWAIT)
    assert waiting.fits({})
    with pytest.raises(OSError, match="Broken pipe"):
        waiting.become(["python"], {}, Path("/"), 1)
    assert not waiting.fits({})
    with pytest.raises(ChildProcessError):
        os.waitpid(waiting.pid, 0)


def test_a_folder_with_a_long_name_is_refused_before_anything_starts(tmp_path: Path) -> None:
    state = SandboxState(username="user", home=tmp_path, path="/bin", python=Path(sys.executable))
    interpreter = CodeInterpreter(state, tmp_path / ("x" * 100))

    async def start() -> None:
        try:
            await interpreter.start()
        finally:
            await interpreter.close()

    with pytest.raises(ConfigurationError, match="too long"):
        asyncio.run(start())
