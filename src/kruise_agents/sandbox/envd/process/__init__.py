"""The service ``process.Process``: programs, their output and their input."""

from __future__ import annotations

from .service import ProcessService

__all__ = ["ProcessService"]
