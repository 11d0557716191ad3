"""Secrets of API keys: named values that can be set and replaced, and that nothing reads back.

A value is sealed with a key that is derived from the state folder's secret: the database alone opens none.
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
    """The owner has a secret of that name."""


class TooManySecretsError(KruiseAgentsError):
    """The owner has as many as one may have."""


class SecretStore:
    """Every secret, each a row.

    Parameters:
        store: where they are written down.
        secret: what the key that seals their values is derived from.
    """

    def __init__(self, store: Database, secret: StateSecret) -> None:
        self._store = store
        self._cipher = AESGCM(secret.sealing_key())

    def all(self, owner: str) -> list[SecretRow]:
        """Those of one owner, oldest first."""
        return sorted(self._store.select(SecretRow, owner=owner), key=lambda row: (row.created_at, row.id))

    def find(self, owner: str, reference: str) -> SecretRow | None:
        """The owner's secret of that id or name."""
        names = (reference, reference.lower())
        return next((row for row in self.all(owner) if row.id == reference or row.name in names), None)

    def make(self, owner: str, name: str, value: str, metadata: Mapping[str, str]) -> SecretRow:
        """Keep a new one, as version 1.

        Raises:
            SecretNameTakenError: the name is in use.
            TooManySecretsError: the owner has :data:`MOST_OF_A_KEY`.
            NoSpaceError: the disk is full.
        """
        rows = self.all(owner)
        if any(row.name == name for row in rows):
            raise SecretNameTakenError(f"there is a secret '{name}' already; update it instead")
        if len(rows) >= MOST_OF_A_KEY:
            raise TooManySecretsError(f"{MOST_OF_A_KEY} secrets are as many as a key may have; delete one first")
        secret_id, moment = f"sec_{secrets.token_hex(10)}", time.time()
        sealed = self._sealed(secret_id, 1, value)
        row = SecretRow(secret_id, owner, name, 1, sealed, json.dumps(dict(metadata)), moment, moment)
        self._store.save(row)
        return row

    def update(self, row: SecretRow, value: str, metadata: Mapping[str, str] | None) -> SecretRow:
        """Keep another value in its place, as the next version.

        Parameters:
            metadata: None: as it was.

        Raises:
            NoSpaceError: the disk is full; it is as it was.
        """
        version = row.version + 1
        changed = replace(
            row,
            version=version,
            sealed=self._sealed(row.id, version, value),
            metadata=row.metadata if metadata is None else json.dumps(dict(metadata)),
            updated_at=time.time(),
        )
        self._store.save(changed)
        return changed

    def remove(self, row: SecretRow) -> None:
        """Forget it, with its value.

        Raises:
            NoSpaceError: the disk is full.
        """
        self._store.delete(SecretRow, id=row.id)

    def value(self, row: SecretRow) -> str:
        """What was set."""
        nonce, sealed = row.sealed[:_NONCE_BYTES], row.sealed[_NONCE_BYTES:]
        return self._cipher.decrypt(nonce, sealed, _place(row.id, row.version)).decode()

    def owners(self) -> set[str]:
        """Who has one."""
        return {row.owner for row in self._store.select(SecretRow)}

    def transfer(self, owner: str, new_owner: str) -> None:
        """Give all of one owner's to another; those whose name the heir uses get a longer one.

        Raises:
            NoSpaceError: the disk is full; some are not given away.
        """
        for row in self.all(owner):
            taken = self.find(new_owner, row.name) is not None
            name = f"{row.name}-{row.id[-6:]}" if taken else row.name
            self._store.save(replace(row, owner=new_owner, name=name))

    def _sealed(self, secret_id: str, version: int, value: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value.encode(), _place(secret_id, version))


def _place(secret_id: str, version: int) -> bytes:
    """What a sealed value is bound to, so that it opens in no other row."""
    return f"{secret_id}:{version}".encode()
