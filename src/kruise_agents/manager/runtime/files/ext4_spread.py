"""A hint to ext4 that the folders in a folder have nothing to do with each other.

Without it, ext4 puts the files of all of them side by side, and a new file of any sandbox is looked for among what all
sandboxes before it have left free. Without a journal ext4 uses nothing again that was removed in the last minutes, and
passes over each of these files, one after another, for every new one.
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
from pathlib import Path

# From the kernel's <linux/fs.h>, as most processors have them; others refuse the unknown call.
_GET_FLAGS = 0x80086601
_SET_FLAGS = 0x40086602
_TOP_OF_HIERARCHIES = 0x00020000
"""What ``chattr +T`` sets."""

logger = logging.getLogger(__name__)


def spread_apart(folder: Path) -> bool:
    """Let the file system spread the folders that will be made in ``folder``.

    Returns:
        Whether it takes the hint; most file systems but ext4 have no need of it.
    """
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
