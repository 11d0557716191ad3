"""Idempotent create requests: for ten minutes, requests with the same ``Idempotency-Key`` make at most one sandbox.

e2b 2.60.0 and later repeat a create when a proxy before the manager answers 429, 502, 503 or 504. e2b 2.61.0 and later
send the header if the caller passes ``idempotency_key=``. Where e2b is 2.51.0 or later, ``patch_e2b`` adds the header
if it is missing.

A repetition that arrives during the first create waits for the same answer. A later repetition, even after a restart
of the manager, gets a new answer about the same sandbox, or 409 if that sandbox is gone. The manager remembers at most
10,000 creates.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from starlette.responses import Response

from ...state.database import Database
from ...state.reserve import NoSpaceError
from ...state.secret import StateSecret
from ...state.tables import CreateRow
from ..errors import DO_NOT_RETRY, ApiError
from ..reading import Spec

HEADER = "Idempotency-Key"
KEPT_SECONDS = 600.0
MOST_KEPT = 10_000
"""The largest number of finished creates that are remembered. The oldest creates are forgotten first."""

_DELETE_OLD = """
DELETE FROM creates WHERE until <= ? OR key IN (SELECT key FROM creates ORDER BY until DESC LIMIT -1 OFFSET ?)
"""
_FORM = re.compile(r"[a-z0-9-]{1,255}")
OnIdAssigned = Callable[[str], None]


def _check_key(name: str, key: str) -> None:
    if _FORM.fullmatch(key) is None:
        raise ApiError(400, f"header {name} must be 1 to 255 of a-z, 0-9 and '-', got {key[:60]!r}")


@dataclass(frozen=True, slots=True)
class IdempotencyHeaders:
    """The header that lets a client repeat a create without making a second sandbox."""

    key: Annotated[
        str | None,
        Spec(
            name=HEADER,
            check=_check_key,
            pattern=f"^{_FORM.pattern}$",
            description="1 to 255 of a-z, 0-9 and -. A create with the key and body of a successful one of the "
            "last 10 minutes gets the same sandbox; the last 10,000 keys count",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class _Create:
    body: bytes
    until: float
    outcome: asyncio.Future[Response]


class IdempotentCreates:
    """The create requests that came with an idempotency key. Memory keeps running and crashed creates.

    Args:
        store: the database, which keeps every create that has a sandbox ID, with its key and body as digests only.
        secret: holds the key for the digests.
        clock: returns seconds since the epoch.
        kept: seconds for which a create is remembered.
        most: the largest number of finished creates that are remembered.
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
        key: str | None,
        body: Mapping[str, Any],
        create: Callable[[OnIdAssigned], Awaitable[Response]],
        replay: Callable[[str], Response | None],
    ) -> Response:
        """Return the answer of ``create`` or of the earlier create with that key. If ``key`` is None, always create.

        A create with a key goes on when its client leaves. A create that ends with ApiError or NoSpaceError is
        forgotten, because no sandbox was made and the next attempt may succeed. A create that crashed may have left a
        sandbox, and is not repeated while the manager remembers that create.

        Args:
            owner: the id of the API key; different API keys do not share idempotency keys.
            create: makes the sandbox. Its argument is a callback that gets the sandbox's id before the sandbox starts.
            replay: returns a new answer about the sandbox with the given id, or None if that sandbox is gone.

        Raises:
            ApiError: 422 when the key came with another body before; 409 when the outcome of the first create is
                unknown, or its sandbox is gone.
        """
        if key is None:
            return await create(lambda sandbox_id: None)
        self._forget_old()
        key_digest = self._secret.digest_of_create(f"{owner}:{key}".encode())
        body_digest = self._secret.digest_of_create(_digest(body))
        known = self._creates.get(key_digest)
        written = next(iter(self._store.select(CreateRow, key=key_digest)), None) if known is None else None
        first = known or written
        if first is not None and first.body != body_digest:
            raise ApiError(
                422,
                f"{HEADER} {key!r} was used for a create with another body; use a new key",
                error_code="idempotency_request_mismatch",
                headers=DO_NOT_RETRY,
            )
        if written is not None:
            return _required(replay(written.sandbox), key, written.sandbox)
        if known is None:
            known = self._begin(key_digest, body_digest, create)
        elif known.outcome.done() and not _is_answer(known.outcome):
            raise ApiError(
                409,
                f"the create with {HEADER} {key!r} crashed; a sandbox may exist. List them, then use a new key",
                error_code="idempotency_outcome_unknown",
                headers=DO_NOT_RETRY,
            )
        return await asyncio.shield(known.outcome)

    def _begin(self, key: bytes, body: bytes, create: Callable[[OnIdAssigned], Awaitable[Response]]) -> _Create:
        until = self._clock() + self._kept
        made: list[str] = []

        def on_id_assigned(sandbox_id: str) -> None:
            made.append(sandbox_id)
            self._store.save(CreateRow(key, body, sandbox_id, until))

        async def run() -> Response:
            return await create(on_id_assigned)

        outcome = asyncio.create_task(run())
        self._creates[key] = begun = _Create(body, until, outcome)
        outcome.add_done_callback(lambda done: self._ended(key, made, done))
        return begun

    def _ended(self, key: bytes, made: list[str], outcome: asyncio.Task[Response]) -> None:
        if made and _is_answer(outcome):
            # The store remembers the sandbox, so no answer has to stay in memory.
            self._creates.pop(key, None)
        elif not outcome.cancelled() and isinstance(outcome.exception(), ApiError | NoSpaceError):
            self._creates.pop(key, None)
            for sandbox_id in made:
                self._store.delete(CreateRow, sandbox=sandbox_id)

    def _forget_old(self) -> None:
        now = self._clock()
        self._store.write(_DELETE_OLD, (now, self._most))
        # Creates are in the order of their start, so the search ends at the first create to be kept.
        while self._creates:
            key, oldest = next(iter(self._creates.items()))
            if (oldest.until > now and len(self._creates) <= self._most) or not oldest.outcome.done():
                return
            del self._creates[key]


def _digest(body: Mapping[str, Any]) -> bytes:
    """Return the digest of a JSON body. White space and the order of keys make no difference."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


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
