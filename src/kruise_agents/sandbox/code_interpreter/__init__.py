"""The code interpreter of a sandbox: what listens on port 49999.

``CodeInterpreter`` is loaded when it is asked for, because a kernel imports this package on its way to
``kernel`` and needs nothing of the server.
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
