"""One sandbox for one ``Idempotency-Key``, however often its create arrives.

e2b 2.60.0 and later repeat a create that was answered 429, 502, 503 or 504, by whoever stands in between. With the
header (``idempotency_key=`` from e2b 2.61.0 on; ``patch_e2b`` adds one) the repetition gets the same sandbox: the same
answer while the first is at work, and one made anew afterwards, also from the next manager on the same state folder.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.responses import Response

from ...state.database import Database, NoSpaceError
from ...state.secret import StateSecret
from ...state.tables import CreateRow
from ..errors import DO_NOT_RETRY, ApiError
from ..reading import Fields

HEADER = "Idempotency-Key"
KEPT_SECONDS = 600.0
MOST_KEPT = 10_000
"""How many are remembered; the oldest are forgotten first."""

_DELETE_OLD = """
DELETE FROM creates WHERE until <= ? OR key IN (SELECT key FROM creates ORDER BY until DESC LIMIT -1 OFFSET ?)
"""
_FORM = re.compile(r"[a-z0-9-]{1,255}")


@dataclass(frozen=True, slots=True)
class _Create:
    body: bytes
    until: float
    outcome: asyncio.Future[Response]


Chosen = Callable[[str], None]


class IdempotentCreates:
    """The creates that carried a key: in memory while they are at work, and which sandbox was made in the store.

    Parameters:
        store: where they are written down, without the keys and the bodies.
        secret: what these are digested with.
        clock: seconds since the epoch.
        kept: seconds for which a create is remembered.
        most: how many are.
    """

    def __init__(
        self,
        store: Database,
        secret: StateSecret,
        clock: Callable[[], float] = time.time,
        kept: float = KEPT_SECONDS,
        most: int = MOST_KEPT,
    ) -> None:
        self._store = store
        self._secret = secret
        self._clock = clock
        self._kept = kept
        self._most = most
        self._creates: dict[bytes, _Create] = {}

    async def answer(
        self,
        owner: str,
        headers: Mapping[str, str],
        fields: Fields,
        create: Callable[[Chosen], Awaitable[Response]],
        again: Callable[[str], Response | None],
    ) -> Response:
        """The answer to one request: of ``create``, or for the request before it with the same key.

        A create goes on when its client leaves, and a repetition that arrives meanwhile waits for it. One that
        was refused is forgotten: nothing was made, so the next attempt may. One that crashed may have left
        something, and is never repeated.

        Parameters:
            owner: the id of the API key; the keys of another one are other keys.
            create: is given what it has to tell the sandbox's id before that runs.
            again: the answer to the create of a sandbox that was made before; None: it is not there any more.

        Raises:
            ApiError: 400 for a key that cannot be one; 422 when the key came with another body before; 409 when
                nobody knows how the first one ended, or its sandbox is gone and the answer with it.
        """
        given = headers.get(HEADER)
        if given is None:
            return await create(lambda sandbox_id: None)
        if _FORM.fullmatch(given) is None:
            raise ApiError(400, f"header {HEADER} must be 1 to 255 of a-z, 0-9 and '-', got {given[:60]!r}")
        self._forget_old()
        key = self._secret.digest_of_create(f"{owner}:{given}".encode())
        body = self._secret.digest_of_create(fields.digest())
        known = self._creates.get(key)
        written = next(iter(self._store.select(CreateRow, key=key)), None) if known is None else None
        first = known or written
        if first is not None and first.body != body:
            raise ApiError(
                422,
                f"{HEADER} {given!r} was used for a create with another body; use a new key",
                error_code="idempotency_request_mismatch",
                headers=DO_NOT_RETRY,
            )
        if written is not None:
            return _required(again(written.sandbox), given, written.sandbox)
        if known is None:
            known = self._begin(key, body, create)
        elif known.outcome.done() and not _is_answer(known.outcome):
            raise ApiError(
                409,
                f"the create with {HEADER} {given!r} crashed; a sandbox may exist. List them, then use a new key",
                error_code="idempotency_outcome_unknown",
                headers=DO_NOT_RETRY,
            )
        return _copy(await asyncio.shield(known.outcome))

    def _begin(self, key: bytes, body: bytes, create: Callable[[Chosen], Awaitable[Response]]) -> _Create:
        until = self._clock() + self._kept
        made: list[str] = []

        def chosen(sandbox_id: str) -> None:
            made.append(sandbox_id)
            self._store.save(CreateRow(key, body, sandbox_id, until))

        async def run() -> Response:
            return await create(chosen)

        outcome = asyncio.create_task(run())
        self._creates[key] = begun = _Create(body, until, outcome)
        outcome.add_done_callback(lambda done: self._ended(key, made, done))
        return begun

    def _ended(self, key: bytes, made: list[str], outcome: asyncio.Task[Response]) -> None:
        if made and _is_answer(outcome):
            # It is written down: what is only there to be repeated takes no memory.
            self._creates.pop(key, None)
        elif not outcome.cancelled() and isinstance(outcome.exception(), ApiError | NoSpaceError):
            self._creates.pop(key, None)
            for sandbox_id in made:
                self._store.delete(CreateRow, sandbox=sandbox_id)

    def _forget_old(self) -> None:
        now = self._clock()
        self._store.write(_DELETE_OLD, (now, self._most))
        # In the order of their beginning, so the first one that is young enough ends the search.
        while self._creates:
            key, oldest = next(iter(self._creates.items()))
            if (oldest.until > now and len(self._creates) <= self._most) or not oldest.outcome.done():
                return
            del self._creates[key]


def _is_answer(outcome: asyncio.Future[Response]) -> bool:
    return not outcome.cancelled() and outcome.exception() is None


def _required(answer: Response | None, key: str, sandbox_id: str) -> Response:
    if answer is None:
        raise ApiError(
            409,
            f"sandbox {sandbox_id}, made by the create with {HEADER} {key!r}, is gone; use a new key for another",
            error_code="idempotency_sandbox_gone",
            headers=DO_NOT_RETRY,
        )
    return answer


def _copy(response: Response) -> Response:
    """A response is sent once; this one says the same again."""
    return Response(response.body, response.status_code, dict(response.headers))
