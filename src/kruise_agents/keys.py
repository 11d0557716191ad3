"""API keys in the form ``e2b_<hex>``, which every SDK accepts, and back.

::

    from kruise_agents.keys import decode_key, encode_key

    encode_key("some-api-key")   # 'e2b_6f6b6167010000000c736f6d652d6170692d6b657947a2e62d3ce60d6d'
    decode_key("e2b_abc123")     # None: this is a raw key

Programs under ``patch_e2b`` do not need the encoded form: raw keys work on every SDK. Unpatched programs over the
native protocol need it on e2b 2.25.0 ... 2.45.1. The encoded form is as secret as the key.
"""

from __future__ import annotations

from .protocol.keys import decode_key, encode_key

__all__ = ["decode_key", "encode_key"]
