"""A hint to ext4 to spread the folders in a folder over the disk, as ``chattr +T`` gives it.

Otherwise ext4 puts the files of all sandboxes side by side, and searches for a new file among everything that earlier
sandboxes have left free. Without a journal, ext4 reuses nothing that was removed in the last minutes, and passes over
each of these files for every new one.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
from pathlib import Path

# From <linux/fs.h>, for most processors; others refuse the unknown call.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000

logger = logging.getLogger(__name__)


def spread_apart(folder: Path) -> bool:
    """Ask the file system to spread future folders in ``folder`` over the disk; return whether it takes the hint."""
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
