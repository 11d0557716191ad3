"""The identity of threads after ``gevent.monkey.patch_all()``, which would break kernels of ipykernel 7.

gevent gives threads other identifiers, by which ``threading.current_thread`` does not find them. ipykernel 7 passes
messages between threads of its own, and each thread first makes sure which thread it is.
"""

from __future__ import annotations

import _thread
import sys
import threading
from types import ModuleType

from .imports import change_at_import


def install() -> None:
    """Make ``current_thread`` work in threads older than gevent's changes. Nothing changes until gevent is imported."""
    change_at_import("gevent.monkey", _keep_identity)


def _keep_identity(module: ModuleType) -> None:
    native_identifier = _thread.get_ident
    original = threading.current_thread
    threads: dict[int, threading.Thread] = vars(threading)["_active"]

    def current_thread() -> threading.Thread:
        thread = threads.get(native_identifier())
        # In the main thread gevent runs greenlets, which shall look like threads.
        return original() if thread is None or thread is threading.main_thread() else thread

    threading.current_thread = current_thread
    for name, user in list(sys.modules.items()):
        if name.startswith("ipykernel.") and vars(user).get("current_thread") is original:
            vars(user)["current_thread"] = current_thread
