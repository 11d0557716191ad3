"""Import hook that patches the SDK when a process imports ``e2b``.

Until then it needs only ``sys``, because every Python process below ``kruise-agents run`` installs it, in any Python 3
and in environments without ``kruise_agents``.
"""

import sys

TYPE_CHECKING = False  # the module typing takes milliseconds to import
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

PACKAGE = "e2b"
VERBOSE_VARIABLE = "KRUISE_AGENTS_RUN_VERBOSE"


def install() -> None:
    """Patch the SDK at its next imports, and at once if a ``.pth`` file of this environment has imported ``e2b``."""
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)
    if PACKAGE in sys.modules:
        patch()


class Finder:
    """Finder of ``e2b``: returns what the finders behind it find, with a :class:`Loader`."""

    @classmethod
    def find_spec(cls, name: str, path: "Any" = None, target: "Any" = None) -> "ModuleSpec | None":
        if name != PACKAGE or cls not in sys.meta_path:
            return None
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)
            spec: Any = find_spec and find_spec(name, path, target)
            if spec:
                # A file e2b.py, or a folder without __init__.py, is not the SDK.
                if spec.origin and spec.submodule_search_locations:
                    spec.loader = Loader(spec.loader)
                return spec  # type: ignore[no-any-return]
        return None


class Loader:
    """Loader of ``e2b``: does what ``loader`` does, then patches the SDK, before any thread can use the module."""

    loader: "Any" = None

    def __init__(self, loader: "Any") -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.loader, name)

    def create_module(self, spec: "ModuleSpec") -> "Any":
        return self.loader.create_module(spec)

    def exec_module(self, module: "ModuleType") -> None:
        module.__loader__ = self.loader
        module.__spec__.loader = self.loader  # type: ignore[union-attr]
        self.loader.exec_module(module)
        patch()


def patch() -> None:
    """Patch the SDK. An environment without ``kruise_agents`` is left alone, with a line if that was asked for."""
    try:
        from kruise_agents.run.child import patch_sdk
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "kruise_agents":
            raise
        _tell_that_it_is_missing()
    else:
        patch_sdk()


def _tell_that_it_is_missing() -> None:
    import os

    if os.environ.get(VERBOSE_VARIABLE):
        print(
            f"kruise-agents run: {sys.executable} (process {os.getpid()}) has no kruise-agents of this release, so its "
            f"SDK is not patched; it obeys E2B_API_URL and E2B_SANDBOX_URL",
            file=sys.stderr,
        )
