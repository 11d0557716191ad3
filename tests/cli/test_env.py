"""``kruise-agents env`` beside a running manager, and without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.managers import RunningManager

pytestmark = pytest.mark.live
WITHOUT_EXTRAS = "import sys\nfor name in ('click', 'uvicorn'): sys.modules[name] = None\n"


def env(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = f"{WITHOUT_EXTRAS}from kruise_agents.cli import main\nmain()"
    command = [sys.executable, "-c", program, "env", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_shell_is_connected_by_one_line(manager: RunningManager) -> None:
    done = env("--state-dir", str(manager.state_dir))
    assert done.stdout.splitlines() == [f"export E2B_DOMAIN={manager.domain}", f"export E2B_API_KEY={manager.api_key}"]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_variable_of_serve_names_the_folder_too(manager: RunningManager) -> None:
    done = env("--format", "json", KRUISE_AGENTS_STATE_DIR=str(manager.state_dir))
    assert json.loads(done.stdout) == manager.environment()


def test_without_a_manager_it_says_how_to_start_one(tmp_path: Path) -> None:
    for done in (env("--state-dir", str(tmp_path)), env("--state-dir", "/proc/nothing"), env(HOME=str(tmp_path))):
        assert (done.returncode, done.stdout) == (2, "")
        assert "no manager runs with the state folder" in done.stderr
        assert "kruise-agents serve" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_wrong_format_is_named() -> None:
    done = env("--format", "yaml")
    assert done.returncode == 2
    assert "'yaml'" in done.stderr
