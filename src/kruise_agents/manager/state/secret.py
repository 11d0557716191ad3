"""The two secret files of a state folder.

Tokens for envd, ports and volumes are derived from the secret when needed. The API key is the one that clients send to
a manager that was given no key.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import shlex
import stat
import uuid
from pathlib import Path
from typing import Self

from ...errors import ConfigurationError
from .database import sync_folder

_BYTES = 32
_API_KEY = re.compile(rb"(e2b_[0-9a-f]{40})\n?")


class StateSecret:
    """The 256 random bits of a state folder. The same input always gives the same token, ID or key."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    @classmethod
    def at(cls, path: Path, *, may_be_new: bool = True) -> Self:
        """Read the secret from ``path``. A missing file is made with mode 600, if it ``may_be_new``.

        A wrong size, and a missing file that may not be new, raise ConfigurationError.
        """
        if not may_be_new and not path.exists():
            raise ConfigurationError(
                f"{path} is missing, and tokens, keys and stored secrets of {path.parent} depend on it; restore it "
                f"from a backup, or move all of {path.parent} away to begin anew"
            )
        value = read_or_make(path, secrets.token_bytes(_BYTES))
        if len(value) != _BYTES:
            raise ConfigurationError(
                f"{path} has {len(value)} bytes in place of {_BYTES}; restore it from a backup, or choose "
                f"another state folder with --state-dir"
            )
        return cls(value)

    def access_token(self, sandbox_id: str) -> str:
        """Return the token for a sandbox's envd: 256 bits in hex."""
        return hmac.new(self._value, f"envd:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def traffic_token(self, sandbox_id: str) -> str:
        """Return the token for the ports of a sandbox that is not public: 256 bits in hex."""
        return hmac.new(self._value, f"traffic:{sandbox_id}".encode(), hashlib.sha256).hexdigest()

    def opaque_traffic_token(self, nonce: bytes, sandbox_uid: str) -> bytes:
        """Return a 256-bit MAC. A token contains the first bits of it, as proof that this manager issued the token."""
        return hmac.digest(self._value, b"opaque-traffic:" + nonce + sandbox_uid.encode(), "sha256")

    def volume_token(self, volume_id: str, owner: str) -> str:
        """Return the token for the contents of a volume: 256 bits in hex. A new owner gets another token."""
        return hmac.new(self._value, f"volume:{volume_id}:{owner}".encode(), hashlib.sha256).hexdigest()

    def key_id(self, raw_key: bytes) -> str:
        """Return the ID of an API key: a UUID that reveals nothing of the key."""
        return str(uuid.UUID(bytes=hmac.digest(self._value, b"api-key:" + raw_key, "sha256")[:16], version=4))

    def digest_of_create(self, content: bytes) -> bytes:
        """Return the digest to store in place of an idempotency key or of a request's body, which may hold secrets."""
        return hmac.digest(self._value, b"create:" + content, "sha256")

    def sealing_key(self) -> bytes:
        """Return the key that encrypts values in the database: 256 bits."""
        return hmac.digest(self._value, b"seal", "sha256")


def api_key_at(path: Path, *, new: bool = False) -> str:
    """Return the API key in a file. Make a key if the file is missing, or if a ``new`` key is wanted.

    Raises:
        ConfigurationError: Other users can read the file, or the file has something else than a key.
    """
    fresh = f"e2b_{secrets.token_hex(20)}\n".encode()
    content = _make(path, fresh) if new else read_or_make(path, fresh)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigurationError(
            f"other users can use the API key in {path} (mode {mode:o}); start once with --new-key, or, if nobody has "
            f"read the file, run: chmod 600 {shlex.quote(str(path))}"
        )
    key = _API_KEY.fullmatch(content)
    if key is None:
        raise ConfigurationError(
            f"{path} is damaged: it has no API key that a manager made; restore it from a backup, or start once with "
            f"--new-key"
        )
    return key[1].decode()


def read_or_make(path: Path, fresh: bytes) -> bytes:
    """Return the content of a secret file. If the file is missing, create it atomically with the content ``fresh``."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb", opener=_open_at_once) as file:
        return file.read()
    return _make(path, fresh)


def _make(path: Path, fresh: bytes) -> bytes:
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(fresh)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_folder(path.parent)
    return fresh


def _open_at_once(path: str, flags: int) -> int:
    # A pipe in place of the file is empty then. Else it would hold up the start for ever.
    return os.open(path, flags | os.O_NONBLOCK)
