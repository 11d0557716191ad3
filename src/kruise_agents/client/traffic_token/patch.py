"""The one patch set behind ``patch_traffic_access_token``; a module of its own for the reason of ``address_patch``."""

from __future__ import annotations

from ..patch_set import PatchSet
from .table import RELIED_ON, TARGETS, put_in_force

TRAFFIC_PATCH = PatchSet(TARGETS, RELIED_ON, put_in_force)
