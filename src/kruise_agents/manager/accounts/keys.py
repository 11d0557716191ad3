"""The API keys of a manager: keys that the manager was started with, and keys that were made over the API.

A sandbox, snapshot, volume or secret belongs to the key that made it, and other keys do not see it. The admin key gets
what a deleted key owned. Keys of one team may manage each other, but they do not see each other's sandboxes.

The value of a key that is made over the API is stored only as its SHA-256. The value has 122 random bits, so nobody can
guess it from the hash, and a slow hash would only slow down requests. Keys given at the manager's start are not stored.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...protocol.keys import decode_key
from ..state.database import Database
from ..state.reserve import NoSpaceError
from ..state.secret import StateSecret
from ..state.tables import ApiKeyRow
from .quota import UNLIMITED, Quota

ADMIN_TEAM = "admin"
ADMIN_ID = "550e8400-e29b-41d4-a716-446655440000"
"""The ID of the first key that a manager is started with (OpenKruise's well-known admin key)."""
_ADMIN_TEAM_ID = "550e8400-e29b-41d4-a716-446655449999"
_TEAMS = uuid.UUID("0b8b3a5e-6f0e-4f5c-9d55-6f6b61670001")
_USE_WRITTEN_EVERY = 60.0  # seconds; not every request is worth a write

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, without its value. Times are seconds since the epoch."""

    id: str
    name: str
    team: str
    created_at: float
    created_by: str | None = None  # the ID of another key; None: the manager was started with this key
    quota: Quota = UNLIMITED

    @property
    def is_admin(self) -> bool:
        """Return whether the key belongs to the admin team, whose rights extend to the keys of all teams."""
        return self.team == ADMIN_TEAM


class Keys:
    """The keys of one manager. The ``initial`` keys, raw or encoded (``protocol/keys.py``), belong to the admin team.

    The first initial key has the ID :data:`ADMIN_ID`. So a manager can be started again with another first key, and the
    sandboxes still have an owner. The IDs of other initial keys are derived from the keys and from ``secret``.
    """

    def __init__(
        self, initial: Sequence[str], store: Database, secret: StateSecret, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._clock = clock
        self._lookup_key = secrets.token_bytes(32)
        self._by_id: dict[str, ApiKey] = {}
        self._ids: dict[bytes, str] = {}
        self._used: dict[str, float] = {}
        self._written: dict[str, float] = {}
        for number, raw in enumerate(dict.fromkeys(raw_key(key.encode()) for key in initial)):
            key_id, name = (ADMIN_ID, ADMIN_TEAM) if number == 0 else (secret.key_id(raw), f"{ADMIN_TEAM} {number + 1}")
            self._add(ApiKey(key_id, name, ADMIN_TEAM, clock()), _digest(raw))
        for row in store.select(ApiKeyRow):
            # A stored key that is also an initial key has the ID and the rights of the initial key.
            self._ids.setdefault(self._lookup_digest(row.digest), row.id)
            with store.decoding(f"API key {row.id}"):
                self._by_id[row.id] = _key_of(row)
            if row.last_used is not None:
                self._used[row.id] = self._written[row.id] = row.last_used

    def find(self, raw: bytes) -> ApiKey | None:
        key_id = self._ids.get(self._lookup_digest(_digest(raw)))
        if key_id is None:
            return None
        self._note_use(key_id)
        return self._by_id[key_id]

    def get(self, key_id: str) -> ApiKey | None:
        return self._by_id.get(key_id)

    def last_used(self, key: ApiKey) -> float | None:
        return self._used.get(key.id)

    def of_team(self, team: str) -> list[ApiKey]:
        return sorted((key for key in self._by_id.values() if key.team == team), key=lambda key: key.created_at)

    def teams(self) -> list[str]:
        return sorted({key.team for key in self._by_id.values()})

    def make(self, name: str, team: str, by: ApiKey, quota: Quota = UNLIMITED) -> tuple[ApiKey, str]:
        """Make a key, and return the key and its raw value, which is not kept."""
        raw = str(uuid.uuid4())
        key = ApiKey(str(uuid.uuid4()), name, team, self._clock(), by.id, quota)
        digest = _digest(raw.encode())
        self._store.save(
            ApiKeyRow(
                id=key.id,
                digest=digest,
                name=name,
                team=team,
                created_at=key.created_at,
                created_by=by.id,
                last_used=None,
                quota=quota.to_json(),
            )
        )
        self._add(key, digest)
        return key, raw

    def remove(self, key: ApiKey) -> None:
        self._store.delete(ApiKeyRow, id=key.id)
        del self._by_id[key.id]
        self._ids = {digest: key_id for digest, key_id in self._ids.items() if key_id != key.id}

    def _add(self, key: ApiKey, digest: bytes) -> None:
        self._by_id[key.id] = key
        self._ids[self._lookup_digest(digest)] = key.id

    def _lookup_digest(self, digest: bytes) -> bytes:
        """Return the HMAC of a key's digest under a random secret, so that the time of a look-up reveals no key."""
        return hmac.digest(self._lookup_key, digest, "sha256")

    def _note_use(self, key_id: str) -> None:
        self._used[key_id] = now = self._clock()
        if self._by_id[key_id].created_by is None or now - self._written.get(key_id, 0) < _USE_WRITTEN_EVERY:
            return
        self._written[key_id] = now
        try:
            self._store.write("UPDATE api_keys SET last_used = ? WHERE id = ?", (now, key_id))
        except NoSpaceError:
            logger.warning("the disk is too full to write down when keys are used")


def team_id(team: str) -> str:
    """Return the ID of a team: fixed for the admin team, otherwise derived from the name."""
    return _ADMIN_TEAM_ID if team == ADMIN_TEAM else str(uuid.uuid5(_TEAMS, team))


def raw_key(key: bytes) -> bytes:
    """Return the raw form of a key that is given raw or encoded."""
    decoded = decode_key(key.decode("latin-1"))
    return key if decoded is None else decoded


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(raw).digest()


def _key_of(row: ApiKeyRow) -> ApiKey:
    return ApiKey(row.id, row.name, row.team, row.created_at, row.created_by, Quota.from_json(row.quota))
