"""``kruise-agents sandbox`` with a manager as OpenKruise's: what works there, and words for what does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
Called = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def openkruise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("openkruise"), "--like", "openkruise") as running:
        yield running


@pytest.fixture
def ks(openkruise: RunningManager) -> Called:
    def called(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kruise_agents", "sandbox", *arguments]
        environment = {"PATH": os.environ["PATH"], **openkruise.environment()}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]

    return called


def test_commands_work_there_or_say_in_words_what_is_missing(ks: Called, tmp_path: Path) -> None:
    made = ks("create", "--timeout", "10m", "--metadata", "job=k")
    assert made.returncode == 0, made.stderr
    sandbox_id = made.stdout.strip()
    assert sandbox_id in ks("list").stdout
    assert ks("exec", "-e", "A=1", sandbox_id, "bash", "-c", "echo $A; exit 4").returncode == 4
    assert ks("run", sandbox_id, input="6 * 7").stdout == "42\n"
    (tmp_path / "f").write_text("x")
    assert ks("cp", "-q", str(tmp_path / "f"), f"{sandbox_id}:f").returncode == 0
    assert ks("cp", "-q", f"{sandbox_id}:f", str(tmp_path / "g")).returncode == 0
    assert (tmp_path / "g").read_text() == "x"

    for arguments, words in (
        (("logs", sandbox_id), "sandbox logs: the sandbox-manager at .* has no v2 routes"),
        (("exec", "-i", sandbox_id, "cat"), "closing stdin"),
        (("create", "no-such-template"), "Template or Checkpoint not found; this manager has: "),
    ):
        done = ks(*arguments, input="")
        assert done.returncode == 1, arguments
        assert re.search(rf"^kruise-agents: .*{words}", done.stderr, re.MULTILINE), done.stderr
        assert "Traceback" not in done.stderr

    paused = ks("pause", sandbox_id)
    assert paused.returncode == 0
    assert "a pause ends the pod" in paused.stderr
    assert "File" not in paused.stderr  # one line, and not that of Python's warnings with its source


def test_kill_all_asks(ks: Called, openkruise: RunningManager) -> None:
    first = ks("create").stdout.strip()
    refused = ks("kill", "--all", input="y\n")
    assert refused.returncode == 2
    assert "Nobody can be asked here; add --yes" in refused.stderr
    assert first in ks("list", "-q").stdout.split()

    done = ks("kill", "--all", "--yes")
    assert (done.returncode, first in done.stdout.split()) == (0, True)
    deadline = time.monotonic() + 20
    while ks("list", "-q").stdout:
        assert time.monotonic() < deadline
    assert ks("kill", "--all").returncode == 0  # nothing to ask
