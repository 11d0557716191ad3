"""Names of languages, and which of them have a kernel here."""

from __future__ import annotations

from .errors import LanguageError

__all__ = ["AVAILABLE", "PYTHON", "normalised"]

PYTHON = "python"

AVAILABLE = (PYTHON,)
"""The languages that a context can have."""

_SHORT_FORMS = {"": PYTHON, "js": "javascript", "ts": "typescript"}


def normalised(language: str | None) -> str:
    """The full name of a language as a client may write it (``" JS"`` is ``javascript``).

    Raises LanguageError when there is no kernel for it.
    """
    written = (language or "").strip().lower()
    name = _SHORT_FORMS.get(written, written)
    if name not in AVAILABLE:
        raise LanguageError(f"language {name!r} is not available in this sandbox, only {', '.join(AVAILABLE)}")
    return name
