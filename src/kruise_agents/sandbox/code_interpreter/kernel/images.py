"""Changes to Pillow: ``show``, and ``save`` to a path given as text, display the image as a result of the cell.

E2B's template has these changes, and programs may rely on them. Pillow is changed when a program imports it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def install() -> None:
    """Change the modules of Pillow that are loaded now, and the others at their import."""
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
        else:
            sys.meta_path.insert(0, _Finder(name, change))


def _display_when_saved(module: ModuleType) -> None:
    image_class: Any = vars(module)["Image"]
    save = image_class.save

    @functools.wraps(save)
    def save_and_display(image: Any, fp: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(fp, str):
            _display(image)
        return save(image, fp, *arguments, **options)

    image_class.save = save_and_display


def _display_when_shown(module: ModuleType) -> None:
    # Otherwise Pillow prefers viewers that it finds on PATH, such as ImageMagick's ``display``, which need a screen.
    viewer_class: Any = vars(module)["Viewer"]

    class CellViewer(viewer_class):  # type: ignore[misc]  # the class of a module that may have any version
        def show(self, image: Any, **options: Any) -> bool:
            _display(image)
            return True

    first = -1
    vars(module)["register"](CellViewer, first)


def _display(image: Any) -> None:
    from IPython.display import display

    display(image)  # type: ignore[no-untyped-call]  # IPython has types in parts


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "PIL.Image": _display_when_saved,
    "PIL.ImageShow": _display_when_shown,
}


class _Finder(MetaPathFinder):
    """A finder that changes a module at its first import, and then removes itself."""

    def __init__(self, name: str, change: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._change = change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            sys.meta_path.remove(self)
            _change_after_execution(spec.loader, self._change)
        return spec


def _change_after_execution(loader: Any, change: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def execute_and_change(module: ModuleType) -> None:
        del loader.exec_module  # the loader has its own method again
        execute(module)
        change(module)

    loader.exec_module = execute_and_change
