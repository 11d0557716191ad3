"""Changes to Pillow: an image is displayed by ``show``, and by ``save`` if the path is given as text.

E2B's template has these changes, and programs may rely on them. Pillow is changed when a program imports it.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from .imports import change_at_import


def install() -> None:
    """Change ``PIL.Image`` and ``PIL.ImageShow``."""
    change_at_import("PIL.Image", _display_when_saved)
    change_at_import("PIL.ImageShow", _display_when_shown)


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
