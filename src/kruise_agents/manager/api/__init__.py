"""The control plane: E2B's management API, as the E2B SDK uses it (e2b 2.8.0 and later)."""

from __future__ import annotations

from .app import create_api

__all__ = ["create_api"]
