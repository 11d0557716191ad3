"""The effects of ``kill -9`` on the other processes of a sandbox."""

from __future__ import annotations

import contextlib

import pytest
from e2b import CommandExitException, Sandbox, SandboxException
from e2b.sandbox.commands.command_handle import PtySize

from support.managers import RunningManager, wait_for


def test_a_killed_command_takes_no_other_along(remote: Sandbox) -> None:
    victim, other = (remote.commands.run("read x; echo $x", background=True, stdin=True) for _ in range(2))
    terminal = remote.pty.create(PtySize(rows=24, cols=80))
    remote.commands.run(f"kill -9 {victim.pid}")
    with pytest.raises(CommandExitException) as raised:
        victim.wait()
    assert raised.value.error == "signal: killed"
    remote.commands.send_stdin(other.pid, "alive\n")
    assert other.wait().stdout == "alive\n"
    remote.commands.run(f"kill -9 {terminal.pid}")
    with pytest.raises(CommandExitException):
        terminal.wait()
    assert remote.commands.list() == []


def test_a_killed_child_is_the_affair_of_its_parent(remote: Sandbox) -> None:
    handle = remote.commands.run("sleep 600 & echo $!; wait $!; echo it ended with $?", background=True)
    child = next(int(out) for out, _, _ in handle if out)
    remote.commands.run(f"kill -9 {child}")
    assert f"it ended with {128 + 9}" in handle.wait().stdout
    assert remote.commands.run(f"kill -0 {child} 2>/dev/null || echo gone").stdout == "gone\n"


def test_a_killed_envd_ends_its_sandbox_and_no_other(manager: RunningManager, remote: Sandbox) -> None:
    with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key) as doomed:
        running = doomed.commands.run("sleep 600", background=True, timeout=0)
        other = remote.commands.run("read x; echo $x", background=True, stdin=True)
        with contextlib.suppress(SandboxException):  # cut off, or just not yet
            # A command's parent is envd.
            doomed.commands.run("kill -9 $PPID", user="root", background=True, timeout=0)
        wait_for(lambda: not doomed.is_running(), 20, "the end of the sandbox")
        with pytest.raises(SandboxException, match="was killed or reached its end of life"):
            running.wait()
    remote.commands.send_stdin(other.pid, "alive\n")
    assert other.wait().stdout == "alive\n"
    with manager.api() as api:
        listed = {one["sandboxID"] for one in api.get("/v2/sandboxes").json()}
    assert remote.sandbox_id in listed
    assert doomed.sandbox_id not in listed
