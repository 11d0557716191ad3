"""Patch of the SDK in a process below ``kruise-agents run``, as the parent's environment variables say."""

from __future__ import annotations

import os

from ..patch_e2b import patch_e2b
from ..patch_traffic_token import patch_traffic_access_token
from ..protocol.names import RUN_ADDRESS_VARIABLE, RUN_TRAFFIC_TOKENS_VARIABLE


def patch_sdk() -> None:
    """Patch the SDK. Without the variables of ``run``, do nothing: only its folder was inherited."""
    address = os.environ.get(RUN_ADDRESS_VARIABLE)
    if address:
        patch_e2b(address.startswith("https:"))
        if os.environ.get(RUN_TRAFFIC_TOKENS_VARIABLE):
            patch_traffic_access_token()
