"""The groups in which sandboxes are frozen, beside other managers that look after theirs in the same place."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kruise_agents.manager.runtime.pause.freezer import Freezer, group_of

pytestmark = pytest.mark.live


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_a_group_that_another_manager_removes_while_it_is_filled_is_made_again(
    sleeper: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    freezer = Freezer.find()
    if freezer is None:
        pytest.skip("no group can be frozen here")
    name = f"test-{os.getpid()}"
    removed: list[Path] = []

    def write(path: Path, text: str, encoding: str | None = None) -> int:
        with path.open("w", encoding=encoding) as file:
            if not removed:
                path.parent.rmdir()
                removed.append(path)
            return file.write(text)

    monkeypatch.setattr(Path, "write_text", write)
    try:
        freezer.put(name, sleeper)
        assert removed
        assert group_of(sleeper) == freezer.parent / f"kruise-agents-{name}"
    finally:
        os.kill(sleeper, 9)
        os.waitid(os.P_PID, sleeper, os.WEXITED | os.WNOWAIT)
        freezer.remove(name)
