"""Warnings of this package, shown at the line of the user's program that caused them."""

from __future__ import annotations

import sys
import warnings

_NOT_THE_PROGRAM = frozenset({"kruise_agents", "e2b", "e2b_code_interpreter", "e2b_desktop"})


class ServerDomainWarning(UserWarning):
    """A server names another domain for its sandboxes than the domain it was reached at."""


class UntestedSDKWarning(UserWarning):
    """The installed SDK is newer than every release this package was tested with."""


def notify(message: str, category: type[Warning]) -> None:
    """Warn at the nearest caller outside this package and the SDK."""
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _NOT_THE_PROGRAM:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
