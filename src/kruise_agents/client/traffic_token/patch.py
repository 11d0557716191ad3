"""The patch set of ``patch_traffic_access_token``, placed outside the public module, so that a reload keeps the set."""

from __future__ import annotations

from ..patch_set import PatchSet
from .table import TRAFFIC_TOKENS

TRAFFIC_PATCH: PatchSet[str] = PatchSet(TRAFFIC_TOKENS)
