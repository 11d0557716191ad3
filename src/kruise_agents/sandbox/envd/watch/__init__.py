"""Watches of folders, which turn the records of inotify into events of envd."""

from __future__ import annotations

from .service import WatchService

__all__ = ["WatchService"]
