"""Warnings of this package, which name the line of the user's program that caused them."""

from __future__ import annotations

import logging
import sys
import warnings

_NOT_THE_PROGRAM = frozenset(
    {
        *("kruise_agents", "e2b", "e2b_code_interpreter", "e2b_desktop", "httpx", "pyqwest", "connectrpc", "asyncio"),
        *("kruise_agents_hook", "importlib"),  # below `kruise-agents run` an import of the SDK patches it
    }
)


class ServerDomainWarning(UserWarning):
    """Warning that a manager names another domain for sandboxes or volumes than the program uses."""


class ForkWarning(UserWarning):
    """Warning that a request of the SDK will hang, because the process was forked after the SDK's first request."""


class LeftOverVariableWarning(UserWarning):
    """Warning that a variable of the environment sends the SDK to another address than that of ``E2B_DOMAIN``."""


class OlderManagerWarning(UserWarning):
    """Warning that a manager without v2 routes carries out a call in another way than E2B."""


class SandboxIdWarning(UserWarning):
    """Warning that OpenKruise's manager takes the addresses of a sandbox for addresses of its API."""


class UntestedSDKWarning(UserWarning):
    """Warning that an installed package of the SDK is newer than the releases that kruise-agents was tested with."""


def notify_of_made_sandbox(message: str, category: type[Warning]) -> None:
    """Warn as :func:`notify` does. If a filter turns warnings into errors, log the message instead.

    An error would lose a sandbox that exists by now.
    """
    try:
        notify(message, category)
    except category:
        logging.getLogger("kruise_agents").warning(message)


def notify(message: str, category: type[Warning]) -> None:
    """Warn at the nearest caller outside this package, the SDK, its HTTP client and the event loop."""
    level = 1
    frame = sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] in _NOT_THE_PROGRAM:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
