"""Copying a sandbox's file tree whole: owners, modes, links, times, extended attributes.

Blocks are shared where the file system can do that.
"""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..handle import ProcessHandle

Start = Callable[[list[str], IO[bytes]], "subprocess.Popen[bytes]"]
_FULL = ("No space left on device", "Disk quota exceeded")


def copy_command(source: Path, target: Path) -> list[str]:
    """The command that copies the folder ``source`` to ``target``, which is empty or not there. It speaks English."""
    copy = ["cp", "-a", "--reflink=auto", "--sparse=auto", "--no-target-directory", "--", str(source), str(target)]
    return ["env", "LC_ALL=C", f"PATH={os.environ.get('PATH', os.defpath)}", *copy]


async def run_copy(start: Start, command: list[str]) -> None:
    """Run a copy to its end; one that is cancelled is ended.

    Parameters:
        start: starts the command with its output going to the given file.

    Raises:
        OSError: it failed; the text says why, and the number is ENOSPC when the disk is full.
    """
    with tempfile.TemporaryFile() as output:
        process = start(command, output)
        handle = ProcessHandle.of(process.pid)
        try:
            await handle.ended()
        except BaseException:
            process.kill()
            raise
        finally:
            handle.close()
            code = process.wait()
        if code == 0:
            return
        output.seek(0)
        said = output.read().decode(errors="replace").strip()[-500:] or f"the copy ended with code {code}"
        raise OSError(errno.ENOSPC if any(text in said for text in _FULL) else errno.EIO, said)
