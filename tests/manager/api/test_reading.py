"""Bodies of API requests that do not arrive, and parameters that are easily misread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kruise_agents.manager.api import reading as body
from kruise_agents.manager.api.errors import ApiError, on_api_error
from kruise_agents.manager.api.formats import Page


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_SECONDS", 0.1)

    async def read(request: Request) -> Response:
        await body.read_fields(request)
        return Response()

    api = Starlette(routes=[Route("/", read, methods=["POST"])], exception_handlers={ApiError: on_api_error})

    async def dripping() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://m") as client:
            return await client.post("/", content=dripping())

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["message"]) == (
        408,
        "the request body did not arrive within 0.1 seconds",
    )


@pytest.mark.parametrize("query", ["path=%ff", "path=/a%ED%A0%80", "pa%fft=/a"])
def test_a_query_that_is_not_utf_8_is_refused(query: str) -> None:
    """Such bytes became U+FFFD, and a file of that name was made."""

    async def read(request: Request) -> Response:
        return Response(str(body.read_query(request)))

    api = Starlette(routes=[Route("/", read)], exception_handlers={ApiError: on_api_error})

    async def ask(text: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://m") as client:
            return await client.get(f"/?{text}")

    answer = asyncio.run(ask(query))
    assert (answer.status_code, answer.json()["message"]) == (400, "the query of the URL is not UTF-8")
    assert asyncio.run(ask("path=%C3%A9+b&empty=")).text == "path=%C3%A9+b&empty="


@pytest.mark.parametrize(("text", "limit"), [("7", 7), ("0000000007", 7), ("101", 100), ("9" * 4000, 100)])
def test_the_limit_of_a_page_is_any_number_from_1_on(text: str, limit: int) -> None:
    """Leading zeros were counted as digits, so that a long number with them was refused."""
    assert body.read_parameters(Page, {"limit": text}).limit == limit


@pytest.mark.parametrize("text", ["0", "0000000000", "", "-1", "1.0", "\u0663"])
def test_other_limits_of_a_page_are_refused(text: str) -> None:
    with pytest.raises(ApiError, match="Invalid limit"):
        body.read_parameters(Page, {"limit": text})
