"""The one patch set behind ``patch_e2b``: in a module of its own, so that reloading the public one makes no second."""

from __future__ import annotations

from ..patch_set import PatchSet
from .settings import put_in_force
from .table import RELIED_ON, TARGETS

ADDRESS_PATCH = PatchSet(TARGETS, RELIED_ON, put_in_force)
