"""The routes of sandboxes, one file a topic: create, operations, network rules, logs and metrics."""

from __future__ import annotations
