"""Programs in pseudo-terminals."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..users import User
from .spawn import SpawnError, popen

# A session leader that opens a terminal by name gets it as its controlling terminal. The shell opens the terminal and
# is then replaced by the program. The alternative, Python code between fork and exec, is not safe with threads.
_SHELL = ("/bin/sh", "-c", 'exec "$@" <>"$0" >&0 2>&1')
_MAX = 0xFFFF


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a terminal's window, in characters."""

    columns: int
    rows: int


def resize(descriptor: int, size: Size) -> None:
    """Set the size of a terminal's window. Columns and rows over 65535 are set to 65535."""
    winsize = struct.pack("HHHH", min(size.rows, _MAX), min(size.columns, _MAX), 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, winsize)


def spawn_in_terminal(
    command: Sequence[str], environment: Mapping[str, str], folder: str, size: Size, user: User
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program in its own terminal. Return the process and the descriptor of the terminal's master side."""
    try:
        master, slave = pty.openpty()
    except OSError as error:
        raise SpawnError(error) from error
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(os.close, master)
        try:
            resize(master, size)
            user.own(slave)
            shell = [*_SHELL, os.ttyname(slave), *command]
            # The child inherits the open terminal, because a terminal that no process has open reports its end.
            process = popen(shell, environment, folder, user, stdin=slave, output=slave, own_session=True)
        except (OSError, ValueError) as error:
            raise SpawnError(error) from error
        finally:
            os.close(slave)
        on_failure.pop_all()
    return process, master
