"""Bodies of the API that do not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest

from kruise_agents.manager.api import body, create_api
from kruise_agents.manager.sandboxes.templates import Templates


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)
    api = create_api(None, None, Templates(datetime.now(UTC)), ["key"], health={})  # type: ignore[arg-type]

    async def dripping() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def ask() -> httpx.Response:
        transport = Transport(api)
        async with httpx.AsyncClient(transport=transport, base_url="http://m", headers={"X-API-Key": "key"}) as client:
            return await client.post("/sandboxes", content=dripping())

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["message"]) == (
        408,
        "the request body did not arrive within 0.1 seconds",
    )


class Transport(httpx.ASGITransport):
    """With what the manager's own door adds to a request."""

    def __init__(self, api: object) -> None:
        async def app(scope, receive, send):  # type: ignore[no-untyped-def]
            await api({**scope, "state": {"domain": "m", "private": True}}, receive, send)  # type: ignore[operator]

        super().__init__(app)
