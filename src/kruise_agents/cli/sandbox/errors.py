"""The error of the commands, and the line that a user is told for any error."""

from __future__ import annotations

import os
import sys

from ...errors import KruiseAgentsError
from .output import note

TRACEBACK = "KRUISE_AGENTS_TRACEBACK"
"""The environment variable that shows the traceback of an error."""


class SandboxCommandError(KruiseAgentsError):
    """A command that cannot be carried out."""


def fail(error: BaseException) -> None:
    """Tell an error in one line, and end the process with code 1."""
    if os.environ.get(TRACEBACK):
        raise error
    note(f"kruise-agents: {describe(error)}")
    sys.exit(1)


def describe(error: BaseException) -> str:
    """Return the text of an error on one line, with its class where the text alone says too little."""
    text = " ".join(str(error).split())
    if isinstance(error, KruiseAgentsError) and text:
        return text
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    known = {"SandboxException", "AuthenticationException"} & kinds
    return text if known and text else f"{type(error).__name__}: {text or 'no reason was given'}"
