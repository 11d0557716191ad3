"""Watching folders: what inotify reports, as envd's events."""

from __future__ import annotations

from .service import WatchService

__all__ = ["WatchService"]
