"""Device files of a host whose root runs the manager: code is the same user outside if its sandbox has one user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kruise_agents.manager.runtime import BubblewrapRuntime

pytestmark = pytest.mark.needs("namespaces")
PROGRAM = Path(__file__).parents[1] / "programs" / "own_devices.py"


@pytest.mark.skipif(os.geteuid() != 0, reason="the host's device files belong to root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is not installed")
@pytest.mark.parametrize("prefork", ["--prefork", "--no-prefork"])
def test_code_of_a_sandbox_with_one_user_cannot_change_the_hosts_device_files(prefork: str, tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, str(PROGRAM), prefork, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["attempt"] == ""
    assert found["used"] == ["4", "4"]
    assert found["after"] == found["before"]
    assert found["owners"] == "nobody 666\n"


def test_where_device_files_cannot_be_made_the_log_says_what_that_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "a test says so")

    monkeypatch.setattr("os.mknod", refuse)
    runtime = BubblewrapRuntime(tmp_path)
    assert runtime._make_devices(tmp_path / "devices") is None
    assert "can change the modes and times of this machine's device files" in caplog.text
    assert "a test says so" in caplog.text
