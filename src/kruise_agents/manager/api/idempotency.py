"""One sandbox for one ``Idempotency-Key``, however often its create arrives.

e2b 2.60.0 and later repeat a create that was answered 429, 502, 503 or 504, by whoever stands in between. With the
header (``idempotency_key=`` from e2b 2.61.0 on; ``patch_e2b`` adds one) the repetition gets the first answer.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from .body import Fields
from .errors import DO_NOT_RETRY, ApiError

HEADER = "Idempotency-Key"
KEPT_SECONDS = 600.0

_FORM = re.compile(r"[a-z0-9-]{1,255}")


@dataclass(frozen=True, slots=True)
class _Create:
    body: bytes
    until: float
    outcome: asyncio.Task[Response]


class IdempotentCreates:
    """The creates of one manager that carried a key; kept in memory.

    Parameters:
        clock: seconds that never go back.
        kept: seconds for which a create is remembered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, kept: float = KEPT_SECONDS) -> None:
        self._clock = clock
        self._kept = kept
        self._creates: dict[tuple[str, str], _Create] = {}

    async def answer(
        self, owner: str, headers: Mapping[str, str], fields: Fields, create: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer to one request: of ``create``, or of the request before it with the same key.

        A create goes on when its client leaves, and a repetition that arrives meanwhile waits for it. One that
        was refused is forgotten: nothing was made, so the next attempt may. One that crashed may have left
        something, and is never repeated.

        Parameters:
            owner: the id of the API key; the keys of another one are other keys.

        Raises:
            ApiError: 400 for a key that cannot be one; 422 when the key came with another body before; 409 when
                nobody knows how the first one ended.
        """
        key = headers.get(HEADER)
        if key is None:
            return await create()
        if _FORM.fullmatch(key) is None:
            raise ApiError(400, f"header {HEADER} must be 1 to 255 of a-z, 0-9 and '-', got {key[:60]!r}")
        self._forget_old()
        known = self._creates.get((owner, key))
        if known is None:
            known = self._begin((owner, key), fields.digest(), create)
        elif known.body != fields.digest():
            raise ApiError(
                422,
                f"{HEADER} {key!r} was used for a create with another body; use a new key",
                error_code="idempotency_request_mismatch",
                headers=DO_NOT_RETRY,
            )
        elif known.outcome.done() and not _is_answer(known.outcome):
            raise ApiError(
                409,
                f"the create with {HEADER} {key!r} crashed; a sandbox may exist. List them, then use a new key",
                error_code="idempotency_outcome_unknown",
                headers=DO_NOT_RETRY,
            )
        return _copy(await asyncio.shield(known.outcome))

    def _begin(self, key: tuple[str, str], body: bytes, create: Callable[[], Awaitable[Response]]) -> _Create:
        async def run() -> Response:
            return await create()

        outcome = asyncio.create_task(run())
        self._creates[key] = begun = _Create(body, self._clock() + self._kept, outcome)
        outcome.add_done_callback(lambda done: self._forget_refused(key, done))
        return begun

    def _forget_refused(self, key: tuple[str, str], outcome: asyncio.Task[Response]) -> None:
        if not outcome.cancelled() and isinstance(outcome.exception(), ApiError):
            self._creates.pop(key, None)

    def _forget_old(self) -> None:
        now = self._clock()
        # In the order of their beginning, so the first one that is young enough ends the search.
        while self._creates:
            key, oldest = next(iter(self._creates.items()))
            if oldest.until > now or not oldest.outcome.done():
                return
            del self._creates[key]


def _is_answer(outcome: asyncio.Task[Response]) -> bool:
    return not outcome.cancelled() and outcome.exception() is None


def _copy(response: Response) -> Response:
    """A response is sent once; this one says the same again."""
    return Response(response.body, response.status_code, dict(response.headers))
