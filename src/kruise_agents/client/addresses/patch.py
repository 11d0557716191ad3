"""Patch set of ``patch_e2b``, apart from the public module so that reloading that module makes no second set."""

from __future__ import annotations

from ..patch_set import PatchSet
from .settings import put_in_force
from .table import ADDRESSES

ADDRESS_PATCH = PatchSet(ADDRESSES, put_in_force)
