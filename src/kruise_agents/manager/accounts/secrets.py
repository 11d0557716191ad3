"""Named secrets that API keys own. Clients can set and replace the values, and the API never returns a value.

The database holds the values encrypted. The encryption key is derived from the file ``secret`` in the state folder.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...errors import KruiseAgentsError
from ..state.database import Database
from ..state.secret import StateSecret
from ..state.tables import SecretRow

MOST_OF_A_KEY = 1000
_NONCE_BYTES = 12


class SecretNameTakenError(KruiseAgentsError):
    """The owner has a secret of that name already."""


class TooManySecretsError(KruiseAgentsError):
    """The owner has the maximum number of secrets."""


class SecretStore:
    """The secrets of all API keys of one manager."""

    def __init__(self, store: Database, secret: StateSecret) -> None:
        self._store = store
        self._cipher = AESGCM(secret.sealing_key())

    def all(self, owner: str) -> list[SecretRow]:
        return sorted(self._store.select(SecretRow, owner=owner), key=lambda row: (row.created_at, row.id))

    def find(self, owner: str, reference: str) -> SecretRow | None:
        names = (reference, reference.lower())
        return next((row for row in self.all(owner) if row.id == reference or row.name in names), None)

    def make(self, owner: str, name: str, value: str, metadata: Mapping[str, str]) -> SecretRow:
        """Store a new secret, as version 1. Raises SecretNameTakenError or TooManySecretsError."""
        rows = self.all(owner)
        if any(row.name == name for row in rows):
            raise SecretNameTakenError(f"there is a secret '{name}' already; update it instead")
        if len(rows) >= MOST_OF_A_KEY:
            raise TooManySecretsError(f"{MOST_OF_A_KEY} secrets are as many as a key may have; delete one first")
        secret_id, moment = f"sec_{secrets.token_hex(10)}", time.time()
        sealed = self._encrypt(secret_id, 1, value)
        row = SecretRow(secret_id, owner, name, 1, sealed, json.dumps(dict(metadata)), moment, moment)
        self._store.save(row)
        return row

    def update(self, row: SecretRow, value: str, metadata: Mapping[str, str] | None) -> SecretRow:
        """Store another value as the next version. Without ``metadata`` the old metadata stays."""
        version = row.version + 1
        changed = replace(
            row,
            version=version,
            sealed=self._encrypt(row.id, version, value),
            metadata=row.metadata if metadata is None else json.dumps(dict(metadata)),
            updated_at=time.time(),
        )
        self._store.save(changed)
        return changed

    def remove(self, row: SecretRow) -> None:
        self._store.delete(SecretRow, id=row.id)

    def value(self, row: SecretRow) -> str:
        nonce, sealed = row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:]
        return self._cipher.decrypt(nonce, sealed, _associated_data(row.id, row.version)).decode()

    def owners(self) -> set[str]:
        return {row.owner for row in self._store.select(SecretRow)}

    def transfer(self, owner: str, new_owner: str) -> None:
        """Give ``owner``'s secrets to ``new_owner``, and add a suffix to each name that ``new_owner`` has already."""
        for row in self.all(owner):
            taken = self.find(new_owner, row.name) is not None
            name = f"{row.name}-{row.id[-6:]}" if taken else row.name
            self._store.save_from_reserve(replace(row, owner=new_owner, name=name))

    def _encrypt(self, secret_id: str, version: int, value: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value.encode(), _associated_data(secret_id, version))


def _associated_data(secret_id: str, version: int) -> bytes:
    """Return the associated data for AES-GCM, which binds an encrypted value to its row and its version."""
    return f"{secret_id}:{version}".encode()
