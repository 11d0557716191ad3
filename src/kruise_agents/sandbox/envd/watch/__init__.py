"""Watches of folders: inotify's records turned into envd's events."""

from __future__ import annotations

from .service import WatchService

__all__ = ["WatchService"]
