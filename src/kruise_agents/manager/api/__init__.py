"""The control plane: E2B's management API, as the SDKs of e2b 2.8.0 and later use it."""

from __future__ import annotations

from .app import create_api

__all__ = ["create_api"]
