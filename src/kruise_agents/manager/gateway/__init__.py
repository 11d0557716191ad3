"""The data plane: takes a request for a sandbox's port to that port, as a stream, both ways."""

from __future__ import annotations

from .gateway import Gateway

__all__ = ["Gateway"]
