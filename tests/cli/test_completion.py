"""``kruise-agents completion``: scripts for three shells, and the suggestions for which they ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kruise_agents.cli import COMMANDS, main

if TYPE_CHECKING:
    from support.managers import RunningManager

pytestmark = pytest.mark.live
Suggested = Callable[..., list[str]]


def program(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kruise_agents", *arguments]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def suggested(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Suggested:
    """A function that returns the suggestions for a line, as the script for bash gets them."""
    for name in ("E2B_DOMAIN", "E2B_API_KEY", "E2B_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KRUISE_AGENTS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("_KRUISE_AGENTS_COMPLETE", "bash_complete")

    def ask(line: str, **variables: str) -> list[str]:
        words = line.split()
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) if line.endswith(" ") else len(words) - 1))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        main()
        out, err = capsys.readouterr()
        assert err == ""
        return [line.partition(",")[2] for line in out.splitlines() if line]

    return ask


def test_commands_options_and_choices_of_all_commands_are_suggested(suggested: Suggested) -> None:
    assert suggested("kruise-agents ") == list(COMMANDS)
    assert "--help" in suggested("kruise-agents --")
    assert suggested("kruise-agents sandbox ex") == ["exec"]
    assert "--port" in suggested("kruise-agents serve --po")  # a command of click
    assert "--format" in suggested("kruise-agents env --fo")  # a command of argparse
    assert "dotenv" in suggested("kruise-agents env --format ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_completed(name: str, suggested: Suggested) -> None:
    assert "--help" in suggested(f"kruise-agents {name} --he")


def test_ids_of_sandboxes_are_suggested_if_a_manager_answers(manager: RunningManager, suggested: Suggested) -> None:
    assert suggested("kruise-agents sandbox info ") == []
    environment = manager.environment()
    with manager.api() as api:
        made = api.post("/sandboxes", json={"templateID": "base", "timeout": 300}).json()["sandboxID"]
        assert made in suggested("kruise-agents sandbox info ", **environment)
        assert suggested(f"kruise-agents sandbox kill {made[:-1]}", **environment) == [made]
        api.delete(f"/sandboxes/{made}")
    assert suggested("kruise-agents sandbox info ", **environment | {"E2B_API_KEY": "e2b_00"}) == []


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
