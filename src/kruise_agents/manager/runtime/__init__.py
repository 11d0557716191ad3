"""How a sandbox's program is started and what is around it: ``bubblewrap`` (default) or ``process``."""

from __future__ import annotations

from .base import Launch, Launched, Runtime
from .bubblewrap import BubblewrapRuntime
from .egress import Connection, Egress, EgressRules
from .handle import ProcessHandle, ProcessIdentity
from .layout import Layout, Mount
from .limits import LEAST, MIB, MOST, Limits
from .owners import FileOwners
from .process import ProcessRuntime
from .watch import Watch

__all__ = [
    "LEAST",
    "MIB",
    "MOST",
    "RUNTIMES",
    "BubblewrapRuntime",
    "Connection",
    "Egress",
    "EgressRules",
    "FileOwners",
    "Launch",
    "Launched",
    "Layout",
    "Limits",
    "Mount",
    "ProcessHandle",
    "ProcessIdentity",
    "ProcessRuntime",
    "Runtime",
    "Watch",
]

RUNTIMES: dict[str, type[Runtime]] = {"bubblewrap": BubblewrapRuntime, "process": ProcessRuntime}
"""Every runtime by the name that ``--runtime`` takes."""
