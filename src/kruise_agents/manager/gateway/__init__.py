"""The data plane: forwards requests for a sandbox's port to that port, as streams both ways."""

from __future__ import annotations

from .gateway import Gateway

__all__ = ["Gateway"]
