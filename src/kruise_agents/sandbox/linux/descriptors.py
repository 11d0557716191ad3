"""The open descriptors of this process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection


def close_all_but(kept: Collection[int]) -> None:
    """Close all descriptors but ``kept``."""
    # Not os.closerange: where Python was built for old systems it tries every number up to the limit.
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor that listed them
                os.close(int(name))
