"""What can go wrong between the routes and the kernels.

::

    KruiseAgentsError
    └── CodeInterpreterError
        ├── InvalidRequestError       a body that cannot be read (422)
        ├── ContextNotFoundError      no such context, or it was removed (404)
        └── KernelError
            ├── LanguageError         no kernel for this language here (500)
            ├── KernelStartError      a kernel that did not come up (500)
            └── KernelEndedError      a kernel that ended in the middle of a request
"""

from __future__ import annotations

from kruise_agents.errors import KruiseAgentsError

__all__ = [
    "CodeInterpreterError",
    "ContextNotFoundError",
    "InvalidRequestError",
    "KernelEndedError",
    "KernelError",
    "KernelStartError",
    "LanguageError",
]


class CodeInterpreterError(KruiseAgentsError):
    """The root of what this package raises."""


class InvalidRequestError(CodeInterpreterError):
    """A request body that is not JSON, or in which a value has the wrong type."""


class ContextNotFoundError(CodeInterpreterError):
    """No context has this id, or the context was removed."""

    def __init__(self, context_id: str) -> None:
        super().__init__(f"Context {context_id} not found")


class KernelError(CodeInterpreterError):
    """A kernel that cannot be had."""


class LanguageError(KernelError):
    """There is no kernel for this language."""


class KernelStartError(KernelError):
    """A kernel process ended, or kept silent, before it was ready. The text ends with its last output."""


class KernelEndedError(KernelError):
    """The kernel process ended while a request was running."""
