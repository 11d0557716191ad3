"""The patch set of ``patch_traffic_access_token``, kept here so that it survives a reload of the public module."""

from __future__ import annotations

from ..patch_set import PatchSet
from .table import TRAFFIC_TOKENS

TRAFFIC_PATCH: PatchSet[str] = PatchSet(TRAFFIC_TOKENS)
