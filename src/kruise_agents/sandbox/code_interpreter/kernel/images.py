"""Changes to Pillow: ``show`` does nothing, and ``save`` to a path given as text also displays the image.

E2B's template has these changes, and programs may rely on them. Pillow is changed when a program imports it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

MODULE = "PIL.Image"


def install() -> None:
    """Change ``PIL.Image`` now if it is loaded, and otherwise at its import."""
    if MODULE in sys.modules:
        _change(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Finder())


def _change(module: ModuleType) -> None:
    image_class: Any = vars(module)["Image"]
    save = image_class.save

    @functools.wraps(save)
    def save_and_display(image: Any, fp: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(fp, str):
            from IPython.display import display

            display(image)  # type: ignore[no-untyped-call]  # IPython has types in parts
        return save(image, fp, *arguments, **options)

    @functools.wraps(image_class.show)
    def show_nothing(image: Any, *arguments: Any, **options: Any) -> None:
        """Do nothing, because ``Image.show()`` needs a screen. A cell displays an image that is its last expression."""

    image_class.save = save_and_display
    image_class.show = show_nothing


class _Finder(MetaPathFinder):
    """A finder that changes ``PIL.Image`` at its first import, and then removes itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            sys.meta_path.remove(self)
            _change_after_execution(spec.loader)
        return spec


def _change_after_execution(loader: Any) -> None:
    execute = loader.exec_module

    def execute_and_change(module: ModuleType) -> None:
        del loader.exec_module  # the loader has its own method again
        execute(module)
        _change(module)

    loader.exec_module = execute_and_change
