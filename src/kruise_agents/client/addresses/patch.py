"""The patch set of ``patch_e2b``, kept here so that it survives a reload of the public module."""

from __future__ import annotations

from ..patch_set import PatchSet
from .settings import put_in_force
from .table import ADDRESSES

ADDRESS_PATCH = PatchSet(ADDRESSES, put_in_force)
