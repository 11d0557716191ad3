"""A kernel in a fork of a process that has imported everything already, and nothing of a kernel's beyond that.

Everything that a program can see is as in a kernel that was started by its own command: :func:`run` makes up for what
Python does at its start. Modules that only others of the process have imported are hidden, so that an import finds
what the sandbox has.
"""

from __future__ import annotations

import contextlib
import importlib
import linecache
import os
import signal
import site
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from IPython.core import application as ipython

from .application import main, without_debugger

_LATER = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "faulthandler",
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "tornado.locks",
    "tornado.platform.asyncio",
    "tornado.queues",
    "unicodedata",
)
"""What a kernel imports while it starts (ipykernel 7.4, IPython 9.18)."""
_AGAIN = ("sysconfig", "jupyter_core.paths")
"""Modules that keep what they have found out of ``sys.prefix`` and the environment."""
_hidden: list[ModuleType] = []
"""Kept, because to take them apart would write into all of their memory, which then would not be shared any more."""


def load() -> frozenset[str]:
    """Import all that a kernel imports, and return the names of all modules that it has then."""
    with without_debugger():
        for name in _LATER:
            with contextlib.suppress(ImportError):  # other releases have others
                importlib.import_module(name)
    return frozenset(sys.modules) - {__name__, "__main__"}


def run(command: Sequence[str], environment: Mapping[str, str], modules: frozenset[str]) -> int:
    """Be what ``command`` would have started. Returns the exit code.

    Parameters:
        command: interpreter, program, and its arguments.
        environment: the whole of it.
        modules: what a kernel has imported, see :func:`load`.
    """
    _hide(modules)
    os.environ.clear()
    # As Python does in the C locale (PEP 538), in which it finds itself with no variable that names another.
    os.environ.update({**environment, "LC_CTYPE": "C.UTF-8"})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # a fork leaves that of its parent
    _find_modules_as(command)
    _find_files_again()
    main(command[2:])
    return 0


def _hide(modules: frozenset[str]) -> None:
    for name in [name for name in sys.modules if name not in modules and name != "__main__"]:
        module = sys.modules.pop(name)
        _hidden.append(module)
        package = name.rpartition(".")[0]
        if package in modules:
            _forget(vars(sys.modules[package]), module)


def _forget(names: dict[str, object], module: ModuleType) -> None:
    """Take out of a package what came into it when a module in it was imported."""
    for name, value in list(names.items()):
        if value is module or getattr(value, "__module__", None) == module.__name__:
            del names[name]


def _find_modules_as(command: Sequence[str]) -> None:
    """Set what Python finds out about its place when it starts."""
    standard = sys.path[: _first_of_site()]
    prefix = str(Path(command[0]).parent.parent)
    sys.orig_argv[:] = command
    sys.argv[:] = command[1:]
    sys.executable = command[0]
    sys._base_executable = os.path.realpath(command[0])  # type: ignore[attr-defined]
    venv_is_found_early = sys.version_info >= (3, 14)  # by the interpreter instead of the module site
    sys.prefix = sys.exec_prefix = prefix if venv_is_found_early else sys.base_prefix
    site.PREFIXES[:] = [sys.prefix, sys.exec_prefix]
    site.ENABLE_USER_SITE = site.USER_SITE = site.USER_BASE = None
    sys.path[:] = standard
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    site.main()
    program_root = str(Path(command[1]).resolve().parents[4])
    if program_root not in sys.path:
        sys.path.append(program_root)


def _find_files_again() -> None:
    """Renew what modules have found out, when they were imported, about where this interpreter is."""
    linecache.clearcache()
    for name in _AGAIN:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
    # Others hold the list. Its module has classes, of which there may be only one each.
    folder = str(Path(sys.prefix, "etc", "ipython"))
    ipython._env_config_dir = folder
    ipython.ENV_CONFIG_DIRS[:] = [folder]


def _first_of_site() -> int:
    """Where in ``sys.path`` the standard library ends."""
    added = {*site.getsitepackages(), site.getusersitepackages()}
    return next((place for place, entry in enumerate(sys.path) if entry in added), len(sys.path))
