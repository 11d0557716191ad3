"""``kruise-agents sandbox`` with a manager as OpenKruise's: what works there, and words for what does not."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.managers import RunningManager, running_manager

from .conftest import Call

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def openkruise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with running_manager(tmp_path_factory.mktemp("openkruise"), "--like", "openkruise") as running:
        yield running


@pytest.fixture
def ks(openkruise: RunningManager, call: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    for name, value in openkruise.environment().items():
        monkeypatch.setenv(name, value)

    return call


def test_commands_work_there_or_say_in_words_what_is_missing(ks: Call, tmp_path: Path) -> None:
    made = ks("create", "--timeout", "10m", "--metadata", "job=k")
    assert made.code == 0, made.err
    sandbox_id = made.out.strip()
    assert sandbox_id in ks("list").out
    assert ks("exec", "-e", "A=1", sandbox_id, "bash", "-c", "echo $A; exit 4").code == 4
    (tmp_path / "f").write_text("6 * 7")
    assert ks("run", sandbox_id, tmp_path / "f").out == "42\n"
    assert ks("cp", "-q", str(tmp_path / "f"), f"{sandbox_id}:f").code == 0
    assert ks("cp", "-q", f"{sandbox_id}:f", str(tmp_path / "g")).code == 0
    assert (tmp_path / "g").read_text() == "6 * 7"

    for arguments, words in (
        (("logs", sandbox_id), "sandbox logs: the sandbox-manager at .* has no v2 routes"),
        (("exec", "-i", sandbox_id, "cat"), "closing stdin"),
        (("create", "no-such-template"), "Template or Checkpoint not found; this manager has: "),
    ):
        done = ks(*arguments)
        assert done.code == 1, arguments
        assert re.search(rf"^kruise-agents: .*{words}", done.err, re.MULTILINE), done.err
        assert "Traceback" not in done.err

    paused = ks("pause", sandbox_id)
    assert paused.code == 0
    assert "a pause ends the pod" in paused.err
    assert "File" not in paused.err  # one line, and not that of Python's warnings with its source


def test_kill_all_asks(ks: Call, openkruise: RunningManager) -> None:
    first = ks("create").out.strip()
    refused = ks("kill", "--all")
    assert refused.code == 2
    assert "Nobody can be asked here; add --yes" in refused.err
    assert first in ks("list", "-q").out.split()

    done = ks("kill", "--all", "--yes")
    assert (done.code, first in done.out.split()) == (0, True)
    deadline = time.monotonic() + 20
    while ks("list", "-q").out:
        assert time.monotonic() < deadline
    assert ks("kill", "--all").code == 0  # nothing to ask
