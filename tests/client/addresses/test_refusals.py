"""Calls that a manager without v2 routes takes for others are refused on every SDK that has them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import e2b
import pytest

from kruise_agents.errors import UnsupportedByManagerError
from kruise_agents.patch_e2b import patch_e2b
from support.recorder import Answer, Recorder
from support.sdk import needs_e2b

PROBE = "POST /v2/sandboxes"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    no_method = Answer.text(405, "Method Not Allowed\n", Allow="GET, HEAD")
    with Recorder(special={PROBE: [no_method]}) as server:
        monkeypatch.setenv("E2B_DOMAIN", server.domain)
        monkeypatch.setattr("kruise_agents.client.addresses.v1_bridge._known", {})
        patch_e2b(False)
        yield server


def has(cls: Any, name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not hasattr(cls, name), reason=f"this e2b has no {name}")


@has(e2b.Sandbox, "get_metrics")
def test_metrics(server: Recorder) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
            e2b.Sandbox.get_metrics("sbx")
    assert server.api_calls == [PROBE]


@has(e2b.AsyncSandbox, "get_metrics")
def test_metrics_of_the_async_client(server: Recorder) -> None:
    with pytest.raises(UnsupportedByManagerError, match="sandbox metrics"):
        asyncio.run(e2b.AsyncSandbox.get_metrics("sbx"))
    assert server.api_calls == [PROBE]


@needs_e2b("2.34.0", "fork")
def test_a_fork(server: Recorder) -> None:
    with pytest.raises(UnsupportedByManagerError, match="forking a sandbox"):
        e2b.Sandbox.fork("sbx")
    assert server.api_calls == [PROBE]


def test_a_kill_of_something_below_a_sandbox(server: Recorder) -> None:
    with pytest.raises(UnsupportedByManagerError, match="DELETE /sandboxes/sbx/anything"):
        e2b.Sandbox.kill("sbx/anything")
    assert server.api_calls == [PROBE]


def test_what_is_no_manager_is_not_called_an_old_one(server: Recorder) -> None:
    server.special[PROBE] = [Answer.text(404, "default backend - 404")]
    with pytest.raises(UnsupportedByManagerError, match=r"or there is none at all at that address.*check E2B_DOMAIN"):
        e2b.Sandbox.kill("sbx/anything")


def test_a_plain_kill_is_sent_at_once(server: Recorder) -> None:
    e2b.Sandbox.kill("sbx")
    assert server.api_calls == ["DELETE /sandboxes/sbx"]
