"""Errors between the routes and the kernels.

::

    KruiseAgentsError
    └── CodeInterpreterError
        ├── InvalidRequestError       422
        ├── ContextNotFoundError      404
        └── KernelError
            ├── LanguageError         500
            ├── KernelStartError      500
            └── KernelEndedError      a line of the answer
"""

from __future__ import annotations

from ...errors import KruiseAgentsError


class CodeInterpreterError(KruiseAgentsError):
    """The root of the errors of this package."""


class InvalidRequestError(CodeInterpreterError):
    """A request body that is not JSON, or in which a value has the wrong type."""


class ContextNotFoundError(CodeInterpreterError):
    """A context that does not exist, or was removed."""

    def __init__(self, context_id: str) -> None:
        super().__init__(f"Context {context_id} not found")


class KernelError(CodeInterpreterError):
    """A kernel that is not available."""


class LanguageError(KernelError):
    """A language without a kernel."""


class KernelStartError(KernelError):
    """A kernel that ended, or kept silent, before it was ready. The text ends with its last output."""


class KernelEndedError(KernelError):
    """A kernel that ended while a request was running."""
