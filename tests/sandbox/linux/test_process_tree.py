"""The end of a process with all its descendants, in whatever session or group they are."""

from __future__ import annotations

import subprocess

import pytest

from kruise_agents.sandbox.linux import process_tree
from kruise_agents.sandbox.linux.process_tree import descendants, kill_tree
from support.managers import processes_with, wait_for

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    "command",
    [
        "sleep 971270 & setsid sh -c 'sleep 971270; true' & (sleep 971270 | sleep 971270) & wait; : 971270",
        "trap '' TERM HUP; while :; do sleep 971270 & done",
    ],
    ids=["other sessions", "one that goes on forking"],
)
def test_a_tree_of_processes_ends_whole(command: str) -> None:
    with subprocess.Popen(["sh", "-c", command]) as root:
        wait_for(lambda: len(descendants(root.pid)) >= 5, what="five descendants")
        kill_tree(root.pid)
        assert root.wait() == -9
    wait_for(lambda: processes_with("971270") == [], what="the end of the descendants")


def test_a_tree_of_processes_may_be_deeper_than_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_children", lambda pid: [pid + 1] if pid < 5000 else [])
    assert descendants(1) == list(range(2, 5001))
