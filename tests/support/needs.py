"""The needs of tests that not every machine meets. A test names its needs with ``@pytest.mark.needs(...)``."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from .managers import PREFORK, available_runtime, one_user_because, reads_volumes

_OLDEST_NODE = (20, 18)  # the version that e2b 2.51.0 asks for


def missing(need: str) -> str | None:
    """Return why this machine does not have ``need``, or None if it does. The first call may start processes."""
    return _CHECKS[need]()


def is_need(name: str) -> bool:
    return name in _CHECKS


def _no_namespaces() -> str | None:
    return None if available_runtime() == "bubblewrap" else "this machine permits no namespaces"


def _no_zygote() -> str | None:
    return _no_namespaces() or (None if PREFORK else "this run is without the zygote (KRUISE_AGENTS_PREFORK=0)")


def _one_user() -> str | None:
    reason = one_user_because()
    return reason and f"sandboxes have one user: {reason}"


def _unreadable_volumes() -> str | None:
    return None if reads_volumes() else "without root a manager cannot read the files of several users"


def _no_node() -> str | None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < _OLDEST_NODE:
        return f"node {version} is older than {'.'.join(map(str, _OLDEST_NODE))}"
    return None


def browser() -> str | None:
    """Return the program of a browser that ``--headless`` lets run without a screen."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _no_browser() -> str | None:
    return None if browser() else "neither Chromium nor Chrome is installed"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "namespaces": _no_namespaces,
    "several users": _one_user,
    "a zygote": _no_zygote,
    "contents of volumes": _unreadable_volumes,
    "node": _no_node,
    "a browser": _no_browser,
}
