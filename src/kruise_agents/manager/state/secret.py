"""The secret of a state folder, from which tokens are derived instead of stored."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import uuid
from pathlib import Path
from typing import Self

from ...errors import ConfigurationError

_BYTES = 32


class StateSecret:
    """The 256 random bits of a state folder. Everything derived from them is always the same."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    @classmethod
    def at(cls, path: Path) -> Self:
        """Read the secret in ``path``, or make one that nobody else can read."""
        value = read_or_make(path, secrets.token_bytes(_BYTES))
        if len(value) != _BYTES:
            raise ConfigurationError(
                f"{path} has {len(value)} bytes in place of {_BYTES}; restore it from a backup, or choose "
                f"another state folder with --state-dir"
            )
        return cls(value)

    def access_token(self, sandbox_id: str) -> str:
        """Return the token for envd of one sandbox: 256 bits in hex."""
        return hmac.new(self._value, f"envd:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def traffic_token(self, sandbox_id: str) -> str:
        """Return the token for the ports of one sandbox that are not open to everybody: 256 bits in hex."""
        return hmac.new(self._value, f"traffic:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def volume_token(self, volume_id: str, owner: str) -> str:
        """Return the token for the contents of one volume, which changes with its owner: 256 bits in hex."""
        return hmac.new(self._value, f"volume:{volume_id}:{owner}".encode(), hashlib.sha256).hexdigest()

    def key_id(self, raw_key: bytes) -> str:
        """Return an ID for an API key that reveals nothing of it: a UUID."""
        return str(uuid.UUID(bytes=hmac.digest(self._value, b"api-key:" + raw_key, "sha256")[:16], version=4))

    def digest_of_create(self, content: bytes) -> bytes:
        """Return the stored digest of an idempotency key, or of a body, which may hold secrets."""
        return hmac.digest(self._value, b"create:" + content, "sha256")

    def sealing_key(self) -> bytes:
        """Return the key that encrypts values in the database: 256 bits."""
        return hmac.digest(self._value, b"seal", "sha256")


def read_or_make(path: Path, fresh: bytes) -> bytes:
    """Read a secret file, or make it with the content ``fresh``, whole or not at all."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(fresh)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    return fresh
