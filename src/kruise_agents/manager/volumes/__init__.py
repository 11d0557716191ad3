"""Volumes: named folders that sandboxes share, and that outlive these sandboxes."""

from .tree import Entry, OutsideError, VolumeTree
from .volumes import NameTakenError, VolumeFullError, Volumes, VolumeUsedError

__all__ = ["Entry", "NameTakenError", "OutsideError", "VolumeFullError", "VolumeTree", "VolumeUsedError", "Volumes"]
