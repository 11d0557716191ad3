"""Opaque traffic access tokens: random UUIDs, as the default issuer of OpenKruise's manager gives."""

from __future__ import annotations

import hmac
import secrets
import uuid
from datetime import UTC, datetime, timedelta

from ..state.secret import StateSecret
from ..traffic_tokens import TokenRefusedError, TrafficToken, TrafficTokens

_NONCE_BYTES = 6


class OpaqueTokens(TrafficTokens):
    """The issuer and verifier of opaque tokens. They are not stored: 74 bits of each are derived from the other 48.

    OpenKruise's manager without a gateway for JWTs lets requests through without any token. This manager asks for one
    all the same, so that a test sees whether a client sends it.
    """

    def __init__(self, secret: StateSecret, validity: int) -> None:
        super().__init__(validity)
        self._secret = secret

    def issue(self, sandbox_id: str, sandbox_uid: str) -> TrafficToken:
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self._validity)
        return TrafficToken(self._token(secrets.token_bytes(_NONCE_BYTES), sandbox_uid), expires)

    def check(self, token: str, sandbox_id: str, sandbox_uid: str) -> None:
        try:
            nonce = uuid.UUID(token).bytes[:_NONCE_BYTES]
        except ValueError:
            raise TokenRefusedError("not a UUID") from None
        if not hmac.compare_digest(self._token(nonce, sandbox_uid).encode(), token.encode()):
            raise TokenRefusedError("not issued for this sandbox")

    def check_key_file(self) -> None:
        """Do nothing: there is no key."""

    def _token(self, nonce: bytes, sandbox_uid: str) -> str:
        mac = self._secret.opaque_traffic_token(nonce, sandbox_uid)
        return str(uuid.UUID(bytes=nonce + mac[: 16 - _NONCE_BYTES], version=4))
