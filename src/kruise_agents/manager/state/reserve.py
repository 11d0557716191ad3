"""A file that holds disk space back, so that deletes still work on a full disk."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ...errors import KruiseAgentsError

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC  # a link would let deletes cut another file
_BYTES = 1024 * 1024
_STEP = 64 * 1024  # a delete writes a few pages of 4 KiB

logger = logging.getLogger(__name__)

T = TypeVar("T")


class NoSpaceError(KruiseAgentsError):
    """The disk with the state folder is full, or a disk quota is used up."""


class Reserve:
    """The file ``path``, which takes a mebibyte of the disk until :meth:`spend` needs the space."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def refill(self) -> bool:
        """Make the file as large as it should be. Return False if the disk has no room for that."""
        try:
            descriptor = os.open(self._path, _OPEN | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_size < _BYTES:
                    os.posix_fallocate(descriptor, 0, _BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in NO_SPACE:
                return False
            logger.warning("no space can be held back for deletes: %s: %s", self._path, error.strerror)
        return True

    def spend(self, action: Callable[[], T]) -> T:
        """Call ``action``. While it raises :class:`NoSpaceError`, free a part of the reserve and call it again."""
        while True:
            try:
                return action()
            except NoSpaceError:
                # In parts: a program that fills the disk may take a part before ``action`` does.
                if not self._free():
                    raise

    def _free(self) -> bool:
        try:
            descriptor = os.open(self._path, _OPEN)
            try:
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, max(0, size - _STEP))
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return size > 0
