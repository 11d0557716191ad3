"""Traffic access tokens: JWTs that open the ports of one protected sandbox, signed and checked by this manager.

OpenKruise's gateway learns issuer and key from an identity provider (OIDC). Here the manager is the issuer and has the
key. The checks are those of OpenKruise's gateway: a known ``kid``, the asymmetric algorithm of the key, the issuer, the
times with a tolerance, a subject, and the sandbox. Tokens are not stored.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from .state.secret import read_or_make

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DEFAULT_VALIDITY = 100 * 365 * 86_400
DEFAULT_CLOCK_SKEW = 60.0

_ALGORITHM = "EdDSA"
_ISSUER = "https://kruise-agents.invalid"
_MAX_BYTES = 64 * 1024
_CLAIMS = ["iss", "sub", "exp", "iat", "nbf", "sandbox"]


class TokenRefusedError(Exception):
    """The token does not open the sandbox. The message says why."""


class ForeignTokenError(TokenRefusedError):
    """The token is valid, but was issued for another sandbox."""


@dataclass(frozen=True, slots=True)
class TrafficToken:
    """A token and its expiry, in UTC and whole seconds."""

    value: str = field(repr=False)
    expires_at: datetime


class TrafficTokens:
    """The issuer and verifier of one manager's tokens. A new token does not invalidate earlier tokens.

    The signing key is read or made when it is first needed, because most managers never need the key, and importing
    ``cryptography`` takes time. The key is kept in ``key_file``, which is created readable for this user only. If
    ``key_file`` is None, the key is kept in memory. ``validity`` and ``clock_skew`` are in seconds.
    """

    def __init__(
        self,
        validity: int = DEFAULT_VALIDITY,
        clock_skew: float = DEFAULT_CLOCK_SKEW,
        clock: Callable[[], float] = time.time,
        key_file: Path | None = None,
    ) -> None:
        self._validity = validity
        self._clock_skew = clock_skew
        self._clock = clock
        self._key_file = key_file

    def issue(self, sandbox_id: str, sandbox_uid: str) -> TrafficToken:
        import jwt  # 0.15 s

        issued = int(self._clock())
        expires = issued + self._validity
        payload = {
            "iss": _ISSUER,
            "sub": f"sandbox:{sandbox_id}",
            "iat": issued,
            "nbf": issued,
            "exp": expires,
            "jti": secrets.token_hex(8),
            "sandbox": {"sandboxId": sandbox_id, "sandboxUid": sandbox_uid},
        }
        value = jwt.encode(payload, self._key, algorithm=_ALGORITHM, headers={"kid": self._kid})
        return TrafficToken(value, datetime.fromtimestamp(expires, UTC))

    def check(self, token: str, sandbox_id: str, sandbox_uid: str) -> None:
        """Raise :class:`TokenRefusedError` unless ``token`` is valid now and for this sandbox."""
        claims = self._verified(token)
        self._check_times(claims)
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise TokenRefusedError("no subject")
        sandbox = claims["sandbox"]
        if not isinstance(sandbox, dict):
            raise TokenRefusedError("the claim 'sandbox' is no object")
        if (sandbox.get("sandboxId"), sandbox.get("sandboxUid")) != (sandbox_id, sandbox_uid):
            raise ForeignTokenError("issued for another sandbox")

    def check_key_file(self) -> None:
        """Raise a ConfigurationError if the key file exists but holds no Ed25519 key that can be used."""
        if self._key_file is None or not self._key_file.exists():
            return
        from cryptography.exceptions import UnsupportedAlgorithm

        try:
            self._key  # noqa: B018 - reads the file
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key wants a passphrase
            raise ConfigurationError(
                f"{self._key_file} holds no Ed25519 key; restore it from a backup, or remove it to make a new one, "
                f"which ends the traffic access tokens that clients have"
            ) from error

    @functools.cached_property
    def _key(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        if self._key_file is None:
            return key
        fresh = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        loaded = serialization.load_pem_private_key(read_or_make(self._key_file, fresh), None)
        if not isinstance(loaded, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")  # noqa: TRY004 - of the file, not of an argument
        return loaded

    @functools.cached_property
    def _kid(self) -> str:
        return hashlib.sha256(self._key.public_key().public_bytes_raw()).hexdigest()[:16]

    def _verified(self, token: str) -> dict[str, Any]:
        """Return the claims of a token after checking its signature and issuer, but not its times."""
        import jwt

        if len(token) > _MAX_BYTES:
            raise TokenRefusedError(f"longer than {_MAX_BYTES} bytes")
        try:
            if jwt.get_unverified_header(token).get("kid") != self._kid:
                raise TokenRefusedError("not signed with a key of this manager")
            # The times are checked below, by this object's clock; PyJWT would use the system's.
            options: Any = {"require": _CLAIMS, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
            claims: dict[str, Any] = jwt.decode(
                token, self._key.public_key(), algorithms=[_ALGORITHM], issuer=_ISSUER, options=options
            )
        except jwt.PyJWTError as error:
            raise TokenRefusedError(str(error)) from None
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        for name in ("exp", "iat", "nbf"):
            if not isinstance(claims[name], int | float) or isinstance(claims[name], bool):
                raise TokenRefusedError(f"the claim {name!r} is no number")
        now = self._clock()
        if claims["exp"] + self._clock_skew <= now:
            raise TokenRefusedError("expired")
        if max(claims["iat"], claims["nbf"]) - self._clock_skew > now:
            raise TokenRefusedError("not valid yet")
