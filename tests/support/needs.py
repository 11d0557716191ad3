"""Things that not every machine has and some tests need; a test names them with ``@pytest.mark.needs(...)``."""

from __future__ import annotations

from collections.abc import Callable

from .javascript import no_node_because
from .managers import PREFORK, available_runtime, one_user_because, reads_volumes


def missing(need: str) -> str | None:
    """Return why this machine does not have ``need``, or None where it has. The first call may start processes."""
    return _CHECKS[need]()


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
    reason = no_node_because()
    return reason and f"JavaScript cannot be run: {reason}"


_CHECKS: dict[str, Callable[[], str | None]] = {
    "namespaces": _no_namespaces,
    "several users": _one_user,
    "a zygote": _no_zygote,
    "contents of volumes": _unreadable_volumes,
    "node": _no_node,
}
