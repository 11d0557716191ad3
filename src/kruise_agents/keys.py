"""Any API key in the form ``e2b_<hex>``, which every SDK accepts, and back.

::

    from kruise_agents.keys import decode_key, encode_key

    encode_key("some-api-key")   # 'e2b_6f6b6167010000000c736f6d652d6170692d6b657947a2e62d3ce60d6d'
    decode_key("e2b_abc123")     # None: not an encoded key, so it is a raw key itself

Under ``patch_e2b`` nobody needs it: raw keys work on every SDK. It is for programs that run unpatched, over the
native protocol, on e2b 2.25.0 ... 2.45.1. The encoded form is as secret as the key.
"""

from __future__ import annotations

from .protocol.keys import decode_key, encode_key

__all__ = ["decode_key", "encode_key"]
