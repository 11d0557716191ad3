"""The request bodies of ``/execute`` and ``/contexts``, checked.

Unknown keys are ignored, and an empty string counts as absent (code interpreter, August 2026).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import InvalidRequestError

__all__ = ["CreateContextRequest", "ExecuteRequest"]


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """The body of POST ``/execute``."""

    code: str
    context_id: str | None
    language: str | None
    variables: Mapping[str, str]

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises InvalidRequestError when ``body`` is not what the route takes."""
        fields = _object(body)
        code = fields.get("code")
        if not isinstance(code, str):
            raise InvalidRequestError(f"code must be a string, not {_kind(code)}")
        return cls(
            code=code,
            context_id=_optional_text(fields, "context_id"),
            language=_optional_text(fields, "language"),
            variables=_variables(fields.get("env_vars")),
        )


@dataclass(frozen=True, slots=True)
class CreateContextRequest:
    """The body of POST ``/contexts``."""

    cwd: str | None
    language: str | None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises InvalidRequestError when ``body`` is not what the route takes."""
        fields = _object(body)
        return cls(cwd=_optional_text(fields, "cwd"), language=_optional_text(fields, "language"))


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequestError(f"the body must be an object, not {_kind(fields)}")
    return fields


def _optional_text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidRequestError(f"{key} must be a string, not {_kind(value)}")
    return value or None


def _variables(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidRequestError("env_vars must be an object whose values are strings")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__
