"""How a sandbox's program is started and what is around it: ``bubblewrap`` (default) or ``process``."""

from __future__ import annotations

from .base import Launched, Runtime
from .bubblewrap import BubblewrapRuntime
from .handle import ProcessHandle, ProcessIdentity
from .layout import Layout, Mount
from .owners import FileOwners
from .process import ProcessRuntime

__all__ = [
    "RUNTIMES",
    "BubblewrapRuntime",
    "FileOwners",
    "Launched",
    "Layout",
    "Mount",
    "ProcessHandle",
    "ProcessIdentity",
    "ProcessRuntime",
    "Runtime",
]

RUNTIMES: dict[str, type[Runtime]] = {"bubblewrap": BubblewrapRuntime, "process": ProcessRuntime}
"""Every runtime by the name that ``--runtime`` takes."""
