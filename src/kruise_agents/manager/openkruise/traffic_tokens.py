"""Opaque traffic access tokens: UUIDs, as the default issuer of OpenKruise's manager gives."""

from __future__ import annotations

import hmac
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from ..state.secret import StateSecret
from ..traffic_tokens import DEFAULT_CLOCK_SKEW, DEFAULT_VALIDITY, TokenRefusedError, TrafficToken, TrafficTokens

_TIME_BYTES = 4  # seconds since 1970, until 2106
_NONCE_BYTES = 6  # the time of issue, then random bytes; a UUID's version is in the byte behind


class OpaqueTokens(TrafficTokens):
    """The issuer and verifier of opaque tokens, which need no storage: 74 bits of a token are a MAC of the other 48.

    OpenKruise's manager without a gateway for JWTs lets requests through without any token. This manager asks for one
    all the same, so that a test sees whether a client sends it.
    """

    def __init__(
        self,
        secret: StateSecret,
        validity: int = DEFAULT_VALIDITY,
        clock_skew: float = DEFAULT_CLOCK_SKEW,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(validity, clock_skew, clock)
        self._secret = secret

    def issue(self, sandbox_id: str, sandbox_uid: str) -> TrafficToken:
        issued = int(self._clock())
        nonce = issued.to_bytes(_TIME_BYTES) + secrets.token_bytes(_NONCE_BYTES - _TIME_BYTES)
        return TrafficToken(self._token(nonce, sandbox_uid), datetime.fromtimestamp(issued + self._validity, UTC))

    def check(self, token: str, sandbox_id: str, sandbox_uid: str) -> None:
        try:
            nonce = uuid.UUID(token).bytes[:_NONCE_BYTES]
        except ValueError:
            raise TokenRefusedError("not a UUID") from None
        if not hmac.compare_digest(self._token(nonce, sandbox_uid).encode(), token.encode()):
            raise TokenRefusedError("not issued for this sandbox")
        if int.from_bytes(nonce[:_TIME_BYTES]) + self._validity + self._clock_skew <= self._clock():
            raise TokenRefusedError("expired")

    def check_key_file(self) -> None:
        """Do nothing: there is no key."""

    def _token(self, nonce: bytes, sandbox_uid: str) -> str:
        mac = self._secret.opaque_traffic_token(nonce, sandbox_uid)
        return str(uuid.UUID(bytes=nonce + mac[: 16 - _NONCE_BYTES], version=4))
