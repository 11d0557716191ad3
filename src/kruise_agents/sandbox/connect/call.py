"""What a handler knows about the call it answers, beside the message."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers


@dataclass(frozen=True, slots=True)
class Call:
    """One call."""

    headers: Headers
    deadline: float | None
    """When the call is ended with ``deadline_exceeded``, on the event loop's clock (seconds); None: never."""
