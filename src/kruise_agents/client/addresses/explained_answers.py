"""Answers of the API with an explanation: the SDK makes the text of its exception from an answer's body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from ...protocol.names import API_KEY_HEADER
from .missing_template import OF_A_BODY

_QUOTES = ("'", '"', "\u2018", "\u2019", "\u201c", "\u201d")
_MOST_TEXT = 2000


def explained(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    """Return the answer with an explanation where one is known. An answer of success in JSON is returned as it is.

    The exception that the SDK raises keeps its class: ``json()`` of an answer that is no JSON still raises its error,
    with the explanation. A web page that claims success raises that error here, in place of a bare ``Exception``.
    """
    if response.is_success:
        if "text/html" not in response.headers.get("Content-Type", ""):
            return response
        raise _explained(json.JSONDecodeError("Expecting value", "", 0), _words(request, response) or "")
    words = _words(request, response)
    if words is None:
        return response
    fields = _fields(response)
    if fields is not None:
        return _answer(response, {**fields, "message": f"{fields.get('message', '')}{_mark()}{words}"})
    told = response.text.strip() if "text/plain" in response.headers.get("Content-Type", "") else ""
    answer = _answer(response, {"code": response.status_code, "message": f"{told}{_mark()}{words}" if told else words})
    answer.json = _unreadable(response, words)  # type: ignore[method-assign]
    return answer


def _words(request: httpx.Request, response: httpx.Response) -> str | None:
    from ..explanations import explanation_of_answer

    key = request.headers.get(API_KEY_HEADER, "").strip()
    return explanation_of_answer(
        response.status_code,
        str(request.url),
        response.headers.get("Content-Type", ""),
        "" if response.is_success else response.text[:_MOST_TEXT],
        key_is_quoted=key.startswith(_QUOTES) or key.endswith(_QUOTES),
        location=response.headers.get("Location", ""),
    )


def _mark() -> str:
    from ..explanations import MARK

    return MARK


def _answer(response: httpx.Response, fields: dict[str, Any]) -> httpx.Response:
    headers = response.headers.copy()
    for name in OF_A_BODY:
        headers.pop(name, None)
    return httpx.Response(response.status_code, headers=headers, json=fields, extensions=response.extensions)


def _fields(response: httpx.Response) -> dict[str, Any] | None:
    try:
        parsed = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _unreadable(response: httpx.Response, words: str) -> Callable[..., Any]:
    """Return a method that fails as ``json()`` of the response does. The SDK calls it for some statuses of a route."""

    def parsed(**options: Any) -> Any:
        try:
            return response.json(**options)
        except ValueError as error:
            raise _explained(error, words)  # noqa: B904  # the same exception

    return parsed


def _explained(error: ValueError, words: str) -> ValueError:
    error.args = (f"{error.args[0]}{_mark()}{words}", *error.args[1:])
    return error
