"""Request bodies of ``/execute`` and ``/contexts``.

Unknown keys are ignored, and an empty id, language or folder counts as absent, as in E2B's server (August 2026).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from ...protocol.fields import FieldError, Fields
from .errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """The body of POST ``/execute``."""

    code: str
    context_id: str | None
    language: str | None
    variables: Mapping[str, str]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        with _errors_for_clients():
            fields = Fields.parse(body)
            return cls(
                code=fields.required_text("code"),
                context_id=fields.text("context_id") or None,
                language=fields.text("language") or None,
                variables=fields.text_map("env_vars"),
            )


@dataclass(frozen=True, slots=True)
class CreateContextRequest:
    """The body of POST ``/contexts``."""

    cwd: str | None
    language: str | None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        with _errors_for_clients():
            fields = Fields.parse(body)
            return cls(cwd=fields.text("cwd") or None, language=fields.text("language") or None)


@contextmanager
def _errors_for_clients() -> Iterator[None]:
    try:
        yield
    except FieldError as error:
        raise InvalidRequestError(_field_text(error)) from error
    except ValueError as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error


def _field_text(error: FieldError) -> str:
    if error.path and error.path[0] == "env_vars":
        return "env_vars must be an object whose values are strings"
    kind = "null" if error.seen is None else type(error.seen).__name__
    return f"{error.name or 'the body'} must be {error.wanted}, not {kind}"
