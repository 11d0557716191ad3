"""Signed URLs of ``/files``: the right to one path and one operation, without the token itself.

Source of the algorithm: e2b 2.8.0 ... 2.63.0 (``get_signature``).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Literal

from .access import same

Operation = Literal["read", "write"]


class SignatureError(Exception):
    """A request to ``/files`` without the right to it."""


def sign(path: str, operation: Operation, username: str, token: str, expiration: str | None = None) -> str:
    """The signature of a request.

    Args:
        path: the ``path`` parameter exactly as given, or the empty string.
        operation: what the URL may be used for.
        username: the ``username`` parameter, or the empty string.
        token: the access token of the sandbox.
        expiration: the ``signature_expiration`` parameter, unix seconds as text, if the URL carries one.
    """
    raw = f"{path}:{operation}:{username}:{token}"
    if expiration is not None:
        raw += f":{expiration}"
    digest = hashlib.sha256(raw.encode("utf-8", "surrogatepass")).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def verify(query: Mapping[str, str], operation: Operation, token: str, header_token: str | None, now: float) -> None:
    """Check the token or the signature of a request.

    Args:
        query: the decoded query parameters.
        operation: what the request is about to do.
        token: the access token of the sandbox.
        header_token: ``X-Access-Token`` of the request; if there is one, no signature is looked at.
        now: unix seconds.

    Raises:
        SignatureError: with the text for the client.
    """
    if header_token is not None:
        if not same(header_token, token):
            raise SignatureError("access token present in header but does not match")
        return
    if not (signature := query.get("signature")):
        raise SignatureError("missing signature query parameter")
    expiration = query.get("signature_expiration")
    expected = sign(query.get("path", ""), operation, query.get("username", ""), token, expiration)
    if not same(signature, expected):
        raise SignatureError("invalid signature")
    # Checked last, so that only the holder of a genuine signature learns that it was one.
    if expiration is not None and _seconds(expiration) < now:
        raise SignatureError("signature is already expired")


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SignatureError("invalid signature expiration") from None
