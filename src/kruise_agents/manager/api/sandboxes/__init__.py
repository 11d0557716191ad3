"""The routes of sandboxes, a file for each topic: create, operations, network rules, logs and metrics."""

from __future__ import annotations
