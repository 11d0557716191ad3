"""The routes of sandboxes: create, connect, list, pause, network rules, logs and metrics."""

from __future__ import annotations
