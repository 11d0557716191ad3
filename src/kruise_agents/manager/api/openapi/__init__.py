"""The API described in OpenAPI 3.1, as ``GET /openapi.json`` serves it.

A new route needs a row in ``operations.py``, and a schema in ``schemas.py`` when it sends something new.
"""

from __future__ import annotations

from .document import described, document

__all__ = ["described", "document"]
