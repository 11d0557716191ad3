"""A MIME bundle of a kernel as the fields of a ``result`` line (code interpreter, August 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["result_fields"]

FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def result_fields(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """The fields for ``bundle``; types without a field of their own go into ``extra`` as they are."""
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for mime_type, value in bundle.items():
        field = FIELDS.get(mime_type)
        if field is None:
            extra[mime_type] = value
        elif field == "text":
            fields[field] = unquoted(value)
        else:
            fields[field] = value
    fields["extra"] = extra
    return fields


def unquoted(text: Any) -> Any:
    """``text`` without one pair of equal quotes around it; nothing inside is unescaped."""
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text
