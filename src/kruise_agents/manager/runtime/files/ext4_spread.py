"""A hint to ext4 to spread the subfolders of a folder over the disk, the same as ``chattr +T``.

Without the hint, ext4 tends to put the files of all sandboxes into one area. For each new file, ext4 then searches that
area for a free inode. An ext4 without a journal does not reuse a removed file's inode for some minutes, so each search
on such a file system has to pass over the inodes that earlier sandboxes have left.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
from pathlib import Path

# From <linux/fs.h>, for most processors. The others refuse these numbers as unknown.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000

logger = logging.getLogger(__name__)


def spread_apart(folder: Path) -> bool:
    """Ask the file system to spread future folders in ``folder`` over the disk. Return False if the hint is refused."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = array.array("i", [0, 0])
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        if not flags[0] & _TOP_OF_HIERARCHIES:
            flags[0] |= _TOP_OF_HIERARCHIES
            fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    except OSError as error:
        logger.debug("folders in %s are not spread apart: %s", folder, error.strerror)
        return False
    finally:
        os.close(descriptor)
    return True
