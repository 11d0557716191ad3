"""Changes to modules of other packages, made when a program imports such a module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[ModuleType], None]


def change_at_import(name: str, change: Change) -> None:
    """Call ``change`` with the module ``name``: now if it is loaded, and otherwise at its import."""
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Finder(name, change))


class _Finder(MetaPathFinder):
    """A finder that changes a module at its first import, and then removes itself. A mere look-up changes nothing."""

    def __init__(self, name: str, change: Change) -> None:
        self._name = name
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            self._change_after_execution(spec.loader)
        return spec

    def _change_after_execution(self, loader: Any) -> None:
        execute = loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            del loader.exec_module  # the loader has its own method again
            execute(module)
            with suppress(ValueError):  # another import of the module was faster
                sys.meta_path.remove(self)
            self._change(module)

        loader.exec_module = execute_and_change
