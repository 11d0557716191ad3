"""``kruise-agents completion``: scripts for three shells, and the suggestions for which they ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kruise_agents.cli import COMMANDS

if TYPE_CHECKING:
    from support.managers import RunningManager

pytestmark = pytest.mark.live


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kruise_agents", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def suggested(line: str, **variables: str) -> list[str]:
    words = line.split()
    number = len(words) if line.endswith(" ") else len(words) - 1
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(number), "_KRUISE_AGENTS_COMPLETE": "bash_complete"}
    done = program(**asked, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_options_and_choices_of_all_commands_are_suggested() -> None:
    assert suggested("kruise-agents ") == list(COMMANDS)
    assert "--help" in suggested("kruise-agents --")
    assert suggested("kruise-agents sandbox ex") == ["exec"]
    assert "--port" in suggested("kruise-agents serve --po")  # a command of click
    assert "--format" in suggested("kruise-agents env --fo")  # a command of argparse
    assert "dotenv" in suggested("kruise-agents env --format ")


def test_every_command_can_be_completed() -> None:
    for name in COMMANDS:
        assert "--help" in suggested(f"kruise-agents {name} --he"), name


def test_ids_of_sandboxes_are_suggested_if_a_manager_answers(manager: RunningManager) -> None:
    environment = manager.environment()
    with manager.api() as api:
        made = api.post("/sandboxes", json={"templateID": "base", "timeout": 300}).json()["sandboxID"]
        assert made in suggested("kruise-agents sandbox info ", **environment)
        assert suggested(f"kruise-agents sandbox kill {made[:-1]}", **environment) == [made]
        api.delete(f"/sandboxes/{made}")
    assert suggested("kruise-agents sandbox info ", **environment | {"E2B_API_KEY": "e2b_00"}) == []
    assert suggested("kruise-agents sandbox info ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_read_by_its_shell(shell: str, tmp_path: Path) -> None:
    done = program("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_KRUISE_AGENTS_COMPLETE" in done.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(done.stdout)
    read = subprocess.run([shell, "-n", "script"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    script = program("completion", "bash").stdout
    (tmp_path / "kruise-agents").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kruise_agents "$@"\n')
    (tmp_path / "kruise-agents").chmod(0o755)
    asked = (
        f"{script}\nCOMP_WORDS=(kruise-agents sandbox sn); COMP_CWORD=2\n"
        '_kruise_agents_completion kruise-agents\necho "${COMPREPLY[@]}"'
    )
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["snapshot", "snapshots"]


def test_an_unknown_shell_is_named() -> None:
    done = program("completion", "tcsh")
    assert done.returncode == 2
    assert "'tcsh'" in done.stderr
