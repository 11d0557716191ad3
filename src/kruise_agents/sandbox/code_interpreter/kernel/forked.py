"""A kernel in a fork of a process that has already imported a kernel's modules.

:func:`run` repeats what Python does at its start, so that programs in the kernel see hardly any difference from a
kernel that was started with ``exec``. Modules that the process imported for another purpose are hidden, so that an
import finds the sandbox's own modules. ``docs/explanation/architecture.md`` lists the differences that stay.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import linecache
import os
import signal
import site
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from IPython.core import application as ipython
from IPython.core.inputtransformer2 import TransformerManager

from .application import main, without_debugger

# Modules that a kernel imports while it starts (ipykernel 7.4, IPython 9.18).
_LATER = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
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
_RELOADED = ("sysconfig", "jupyter_core.paths")  # modules that cache facts about ``sys.prefix`` and the environment
# Kept, because freeing an object writes to its memory, which would then no longer be shared.
_kept: list[object] = []


@dataclass(frozen=True, slots=True)
class Hidden:
    """The modules and names that a kernel must not see of the process that it is forked from.

    They are found before the fork. A search writes to all that it sees, because Python counts references, and memory
    that a fork writes to is no longer shared.
    """

    kept: frozenset[str]  # the modules that the kernel sees
    modules: tuple[str, ...]
    names: tuple[tuple[dict[str, object], str], ...]  # in the namespaces of packages that the kernel sees
    last: str  # the module that was loaded last; modules that are loaded later are hidden too


def load() -> frozenset[str]:
    """Import the modules that every kernel imports. Return the names of all modules that a new kernel has loaded."""
    with without_debugger():
        for name in _LATER:
            with contextlib.suppress(ImportError):  # other releases have other modules
                importlib.import_module(name)
    # Compiles regular expressions, which are kept.
    TransformerManager().transform_cell("1")  # type: ignore[no-untyped-call]  # IPython has types in parts
    return frozenset(sys.modules) - {__name__, "__main__"}


def to_hide(modules: frozenset[str]) -> Hidden:
    """Return what a kernel must not see of this process. ``modules`` is the result of :func:`load`."""
    hidden = [name for name in sys.modules if name not in modules and name != "__main__"]
    return Hidden(modules, tuple(hidden), tuple(_names_in(modules, hidden)), next(reversed(sys.modules)))


def run(command: Sequence[str], environment: Mapping[str, str], hidden: Hidden) -> int:
    """Run the kernel that ``command`` would have started, and return the exit code."""
    _hide(hidden)
    os.environ.clear()
    # Python sets this variable in the C locale (PEP 538), which is in effect when no variable names another locale.
    os.environ.update({**environment, "LC_CTYPE": "C.UTF-8"})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # which is the parent's until then
    _find_modules_as(command)
    _find_files_again()
    main(command[2:])
    return 0


def _hide(hidden: Hidden) -> None:
    later = list(itertools.takewhile(lambda name: name != hidden.last, reversed(sys.modules)))
    for names, name in (*hidden.names, *_names_in(hidden.kept, later)):
        _kept.append(names.pop(name, None))
    for name in (*hidden.modules, *later):
        _kept.append(sys.modules.pop(name))


def _names_in(packages: frozenset[str], modules: Iterable[str]) -> Iterator[tuple[dict[str, object], str]]:
    """Yield a package's namespace and a name in it, for each name of a module or of what the module defines."""
    for name in modules:
        package = name.rpartition(".")[0]
        if package in packages:
            module, names = sys.modules[name], vars(sys.modules[package])
            for key, value in names.items():
                if value is module or getattr(value, "__module__", None) == module.__name__:
                    yield names, key


def _find_modules_as(command: Sequence[str]) -> None:
    """Set ``sys.path``, ``sys.argv``, ``sys.executable``, ``sys.prefix`` etc. as in a new process of ``command``."""
    standard = sys.path[: _first_of_site()]
    prefix = str(Path(command[0]).parent.parent)
    sys.orig_argv[:] = command
    sys.argv[:] = command[1:]
    sys.executable = command[0]
    sys._base_executable = os.path.realpath(command[0])  # type: ignore[attr-defined]  # typeshed leaves it out
    venv_is_found_early = sys.version_info >= (3, 14)  # by the interpreter, not by the module site
    sys.prefix = sys.exec_prefix = prefix if venv_is_found_early else sys.base_prefix
    site.PREFIXES[:] = [sys.prefix, sys.exec_prefix]
    site.ENABLE_USER_SITE = site.USER_SITE = site.USER_BASE = None
    sys.path[:] = standard
    _kept.append(dict(sys.path_importer_cache))
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    site.main()
    program_root = str(Path(command[1]).resolve().parents[4])
    if program_root not in sys.path:
        sys.path.append(program_root)


def _find_files_again() -> None:
    """Clear the line cache, and recompute paths that modules derived from the old ``sys.prefix`` and environment."""
    linecache.clearcache()
    for name in _RELOADED:
        if name in sys.modules:
            importlib.reload(sys.modules[name])
    # Changed in place, because other modules hold the list. A reload would create the module's classes a second time.
    folder = str(Path(sys.prefix, "etc", "ipython"))
    ipython._env_config_dir = folder
    ipython.ENV_CONFIG_DIRS[:] = [folder]


def _first_of_site() -> int:
    """Return the index in ``sys.path`` of the first entry that the module ``site`` added."""
    added = {*site.getsitepackages(), site.getusersitepackages()}
    return next((place for place, entry in enumerate(sys.path) if entry in added), len(sys.path))
