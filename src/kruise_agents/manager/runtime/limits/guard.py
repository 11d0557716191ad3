"""A guard around each step of the watchdog, so that an error in one step stops no other step."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def guarded(subject: str) -> Iterator[None]:
    """Log an error of the ``with`` block instead of raising it. ``subject`` names what the block looks at."""
    try:
        yield
    except FileNotFoundError:
        logger.debug("%s has just been removed", subject)
    except Exception:  # limits depend on these looks: an error at one sandbox must not stop the looks at others
        logger.exception("%s could not be looked at", subject)
