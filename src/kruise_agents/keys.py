"""Conversion of API keys to the form ``e2b_<hex>``, which every SDK accepts, and back.

::

    from kruise_agents.keys import decode_key, encode_key

    encode_key("some-api-key")   # 'e2b_6f6b6167010000000c736f6d652d6170692d6b657947a2e62d3ce60d6d'
    decode_key("e2b_abc123")     # None: this is a raw key

Under ``patch_e2b()`` raw keys work on every SDK, unless ``validate_key=True``. Without the patch, e2b 2.25.0 ... 2.45.1
refuse a key that is not ``e2b_`` and lower-case hex digits. The encoded form, which is as secret as the key, passes.
"""

from __future__ import annotations

from .protocol.keys import decode_key, encode_key

__all__ = ["decode_key", "encode_key"]
