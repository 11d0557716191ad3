"""The errors of the code interpreter, and the HTTP status of each.

::

    KruiseAgentsError
    └── CodeInterpreterError
        ├── AccessRefusedError        401
        ├── InvalidRequestError       422
        ├── ContextNotFoundError      404
        └── KernelError               500
            ├── LanguageError         400
            ├── KernelStartError
            └── KernelEndedError

After an execution's answer has begun, such an error becomes a line of the answer.
"""

from __future__ import annotations

from ...errors import KruiseAgentsError


class CodeInterpreterError(KruiseAgentsError):
    """The base class of the code interpreter's errors."""


class AccessRefusedError(CodeInterpreterError):
    """A request to a secure sandbox with a ``wrong`` access token, or without an access token where one is needed."""

    def __init__(self, *, wrong: bool) -> None:
        super().__init__(
            f"{'the X-Access-Token is not that of this sandbox' if wrong else 'the header X-Access-Token is missing'}. "
            f"Send the envdAccessToken of the create or connect call, as the E2B SDKs do, or create the sandbox with "
            f"secure=False"
        )


class InvalidRequestError(CodeInterpreterError):
    """A request body that is not JSON, or in which a value is missing or has the wrong type."""


class ContextNotFoundError(CodeInterpreterError):
    """A context that does not exist or was removed."""

    def __init__(self, context_id: str) -> None:
        super().__init__(f"Context {context_id} not found")


class KernelError(CodeInterpreterError):
    """A kernel that is not available."""


class LanguageError(KernelError):
    """A language without a kernel."""


class KernelStartError(KernelError):
    """A kernel that could not be started, or that ended or kept silent before it was ready.

    The text ends with the kernel's last output, if there is any.
    """


class KernelEndedError(KernelError):
    """A kernel that has ended, or was stopped, and so cannot complete a request."""
