"""The end of what a sandbox without a pid namespace leaves behind."""

from __future__ import annotations

import os
import subprocess

import pytest

from kruise_agents.sandbox.linux import pid1

pytestmark = pytest.mark.live


def test_a_process_that_may_not_be_killed_does_not_save_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may be a program of ``sudo``, where the manager does not run as ``root``."""
    kill, asked = os.kill, []

    def refuse_once(pid: int, number: int) -> None:
        asked.append(pid)
        if len(asked) == 1:
            raise PermissionError(1, "Operation not permitted")
        kill(pid, number)

    with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as second:
        children = [first.pid, second.pid]
        rounds = iter([children, []])
        monkeypatch.setattr(pid1, "descendants", lambda _: next(rounds))
        monkeypatch.setattr(pid1, "_reap", lambda: None)
        monkeypatch.setattr(os, "kill", refuse_once)
        pid1._end_descendants()
        monkeypatch.undo()
        first.kill()
        assert (asked, second.wait()) == (children, -9)
