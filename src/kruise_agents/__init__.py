"""Tools to run E2B programs on your own cluster over one plain domain, or on a laptop without a cluster.

Importing this package does not import ``e2b``, so a program can still set the variables that ``e2b`` reads when it is
imported, such as ``E2B_MAX_CONNECTIONS``. PYTEST_DONT_REWRITE: so pytest does not warn if this package, which brings a
plugin for pytest, is imported before pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .patch_e2b import CallableModule

    patch_e2b: CallableModule

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "patch_e2b":  # a module that can be called; imported when used, to keep this package light
        import importlib

        return importlib.import_module(".patch_e2b", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
