"""The patch set of ``patch_e2b``, in a module of its own so that reloading ``patch_e2b.py`` makes no second set."""

from __future__ import annotations

from ..patch_set import PatchSet
from .settings import put_in_force
from .table import ADDRESSES

ADDRESS_PATCH = PatchSet(ADDRESSES, put_in_force)
