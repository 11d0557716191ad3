"""The runtimes: ``bubblewrap``, the default, isolates sandboxes with namespaces; ``process`` does not isolate them."""

from __future__ import annotations

from .base import Runtime
from .bubblewrap import BubblewrapRuntime
from .files.layout import Layout, Mount
from .handle import ProcessHandle, ProcessIdentity
from .launch import Launch
from .limits.limits import LEAST, MIB, MOST, Limits
from .limits.watchdog import Watchdog
from .network.egress import Connection, Egress, EgressRules
from .unisolated import ProcessRuntime

__all__ = [
    "LEAST",
    "MIB",
    "MOST",
    "RUNTIMES",
    "BubblewrapRuntime",
    "Connection",
    "Egress",
    "EgressRules",
    "Launch",
    "Layout",
    "Limits",
    "Mount",
    "ProcessHandle",
    "ProcessIdentity",
    "ProcessRuntime",
    "Runtime",
    "Watchdog",
]

RUNTIMES: dict[str, type[Runtime]] = {"bubblewrap": BubblewrapRuntime, "process": ProcessRuntime}
"""The runtimes by the names that ``--runtime`` accepts."""
