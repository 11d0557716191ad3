"""The patch set of ``patch_e2b``, placed outside the public module, so that a reload keeps the set."""

from __future__ import annotations

from ..patch_set import PatchSet
from .settings import put_in_force
from .table import ADDRESSES

ADDRESS_PATCH = PatchSet(ADDRESSES, put_in_force)
