"""Advice on failures whose own words mislead, such as the name errors of a sandbox without internet access.

The advice is one line, which commands and code get on standard error behind the output that shows the failure.
"""

from __future__ import annotations

from pathlib import Path

MOST_OUTPUT = 8192
"""The longest piece of output that is looked through. Errors come in short pieces, and bulk output costs nothing."""
_REJECT = 0x200  # RTF_REJECT (linux/route.h)
_NO_NAMES = (
    "Temporary failure in name resolution",
    "Temporary failure resolving",  # apt
    "Could not resolve host",
    "EAI_AGAIN",  # Node
    "(from versions: none)",  # pip, which does not say that it reached nothing
)
# Without a root file system of its own, a sandbox has no /var/lib/dpkg (2), or its folders are read-only (30).
_NO_PACKAGES = ("lock-frontend - open (2:", "lock-frontend - open (30:")
_NO_INTERNET = (
    "kruise-agents: this sandbox has no internet access, so names have no addresses. Where all sandboxes lack it, "
    "'kruise-agents serve' says at its start why: it needs slirp4netns or passt, and no --no-internet. The create or "
    "the template can forbid it, too. Packages can also come with a template\n"
)
_NO_SYSTEM_PACKAGES = (
    "kruise-agents: packages of the system cannot be installed in a sandbox, whose system folders are read-only. Use "
    "pip install, or a template with a root file system of your own\n"
)


def advice_on(output: str) -> str | None:
    """Return advice on a failure that a piece of output shows, or None."""
    if len(output) > MOST_OUTPUT:
        return None
    if any(text in output for text in _NO_PACKAGES):
        return _NO_SYSTEM_PACKAGES
    return _NO_INTERNET if any(text in output for text in _NO_NAMES) and not _has_internet() else None


def _has_internet(routes: Path = Path("/proc/net/route")) -> bool:
    """Return True if a default route is there and no half of all addresses is blocked."""
    try:
        rows = [line.split() for line in routes.read_text().splitlines()[1:]]
    except OSError:
        return True  # not known
    wide = [row for row in rows if int(row[7], 16).bit_count() <= 1]
    return bool(wide) and not any(int(row[3], 16) & _REJECT for row in wide)
