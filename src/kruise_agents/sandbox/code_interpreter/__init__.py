"""The code interpreter of a sandbox (port 49999).

``CodeInterpreter`` is imported on first use, because a kernel imports this package on its way to ``kernel`` and needs
nothing of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .app import CodeInterpreter

__all__ = ["CodeInterpreter"]


def __getattr__(name: str) -> object:
    if name == "CodeInterpreter":
        from .app import CodeInterpreter

        return CodeInterpreter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
