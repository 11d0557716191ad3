"""Requests as they leave the program, seen by servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import e2b
import pytest

from kruise_agents.errors import MissingDomainError
from kruise_agents.patch_e2b import ServerDomainWarning, patch_e2b
from support.recorder import Recorder
from support.sdk import CODE_INTERPRETER_VERSION


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """The server of the environment's domain."""
    with Recorder() as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        yield server


@pytest.fixture
def elsewhere() -> Iterator[Recorder]:
    with Recorder() as server:
        yield server


def use(cls: Any = None, **opts: Any) -> None:
    """Create, files, commands, kill: every client of a sandbox object sends something."""
    sandbox = (cls or e2b.Sandbox).create(**opts)
    sandbox.files.write("/a", "text")
    assert not sandbox.files.exists("/b")
    with contextlib.suppress(e2b.SandboxException):
        sandbox.commands.run("true")
    if hasattr(sandbox, "run_code"):
        with contextlib.suppress(e2b.SandboxException):
            sandbox.run_code("1")
    assert sandbox.is_running()
    sandbox.kill()


async def use_async(**opts: Any) -> None:
    sandbox = await e2b.AsyncSandbox.create(**opts)
    await sandbox.files.write("/a", "text")
    assert not await sandbox.files.exists("/b")
    with contextlib.suppress(e2b.SandboxException):
        await sandbox.commands.run("true")
    await sandbox.kill()


def assert_everything_is_private(server: Recorder) -> None:
    assert len(server.requests) >= 5
    prefixes = ("/kruise/api/", "/kruise/sbx/49983/", "/kruise/sbx/49999/")
    assert [target for target in server.targets if not target.startswith(prefixes)] == []
    assert any(target.startswith("/kruise/api/") for target in server.targets)
    assert any(target.startswith("/kruise/sbx/49983/files") for target in server.targets)
    assert "/kruise/sbx/49983/process.Process/Start" in server.targets


def test_every_request_is_private(at_home: Recorder) -> None:
    patch_e2b(False)
    use()
    assert_everything_is_private(at_home)


def test_every_request_of_an_async_sandbox_is_private(at_home: Recorder) -> None:
    patch_e2b(False)
    asyncio.run(use_async())
    assert_everything_is_private(at_home)


@pytest.mark.skipif(CODE_INTERPRETER_VERSION is None, reason="the code interpreter is not installed")
def test_running_code_is_private(at_home: Recorder) -> None:
    import e2b_code_interpreter

    patch_e2b(False)
    use(e2b_code_interpreter.Sandbox)
    assert_everything_is_private(at_home)
    assert "/kruise/sbx/49999/execute" in at_home.targets


def test_a_key_never_goes_to_another_domain(at_home: Recorder, elsewhere: Recorder) -> None:
    patch_e2b(False)
    if hasattr(e2b, "E2B"):
        use(e2b.E2B(domain=elsewhere.domain, api_key="e2b_bb").Sandbox)
    use(domain=elsewhere.domain, api_key="e2b_bb")
    assert at_home.requests == []
    asyncio.run(use_async(domain=elsewhere.domain, api_key="e2b_bb"))
    assert at_home.requests == []
    assert_everything_is_private(elsewhere)
    assert {request.api_key for request in elsewhere.requests} <= {"e2b_bb", None}


def test_a_server_with_another_fixed_domain_does_not_divert_sandboxes(at_home: Recorder, elsewhere: Recorder) -> None:
    at_home.answer = elsewhere.domain
    patch_e2b(False)
    with pytest.warns(ServerDomainWarning):
        use()
    assert elsewhere.requests == []
    assert_everything_is_private(at_home)


def test_a_server_with_another_fixed_domain_is_followed_when_asked_for(at_home: Recorder, elsewhere: Recorder) -> None:
    at_home.answer = elsewhere.domain
    patch_e2b(False, follow_server_domain=True)
    use()
    assert {target.startswith("/kruise/api/") for target in at_home.targets} == {True}
    assert {target.startswith("/kruise/sbx/") for target in elsewhere.targets} == {True}


def test_without_a_domain_a_create_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_DOMAIN")
    patch_e2b(False)
    with pytest.raises(MissingDomainError):
        e2b.Sandbox.create()
