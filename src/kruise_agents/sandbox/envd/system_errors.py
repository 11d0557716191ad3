"""The wording of operating-system errors."""

from __future__ import annotations

import errno

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk is full, of content or of files; or the quota of its owner is; or the sandbox has as much as it may have,
and no file may grow (``RLIMIT_FSIZE``)."""


def describe(action: str, path: str, error: OSError) -> str:
    """``stat /x: no such file or directory``, the form in which envd's clients know these texts."""
    return f"{action} {path}: {reason(error)}"


def reason(error: OSError) -> str:
    """``no such file or directory``."""
    return (error.strerror or str(error)).lower()
