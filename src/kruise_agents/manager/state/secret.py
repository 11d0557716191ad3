"""The one secret of a state folder, from which the tokens of its sandboxes are derived instead of stored."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import uuid
from pathlib import Path
from typing import Self

_BYTES = 32


class StateSecret:
    """256 random bits, made once."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    @classmethod
    def at(cls, path: Path) -> Self:
        """The secret in ``path``; made when it is not there, readable for nobody else."""
        return cls(read_or_make(path, secrets.token_bytes(_BYTES)))

    def access_token(self, sandbox_id: str) -> str:
        """The token for envd of one sandbox: 256 bits in hex, the same whenever it is asked for."""
        return hmac.new(self._value, f"envd:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def traffic_token(self, sandbox_id: str) -> str:
        """The token for the ports of one sandbox that are not open to everybody: 256 bits in hex, always the same."""
        return hmac.new(self._value, f"traffic:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def volume_token(self, volume_id: str, owner: str) -> str:
        """The token for the contents of one volume, which changes with its owner: 256 bits in hex."""
        return hmac.new(self._value, f"volume:{volume_id}:{owner}".encode(), hashlib.sha256).hexdigest()

    def key_id(self, raw_key: bytes) -> str:
        """An id for an API key that tells nothing of it, the same whenever it is asked for: a UUID."""
        return str(uuid.UUID(bytes=hmac.digest(self._value, b"api-key:" + raw_key, "sha256")[:16], version=4))

    def digest_of_create(self, what: bytes) -> bytes:
        """What is written down of an idempotency key and of the body that came with it, which may hold secrets."""
        return hmac.digest(self._value, b"create:" + what, "sha256")

    def sealing_key(self) -> bytes:
        """What values in the database are encrypted with: 256 bits, always the same."""
        return hmac.digest(self._value, b"seal", "sha256")


def read_or_make(path: Path, fresh: bytes) -> bytes:
    """The content of a secret file; ``fresh`` becomes it when there is none. A crash leaves no half of it."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    half = path.with_name(f"{path.name}.new")
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(fresh)
        file.flush()
        os.fsync(file.fileno())
    half.rename(path)
    return fresh
