"""Pseudo-terminals."""

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

# A session leader that opens a terminal by its name gets it as its controlling terminal. The shell does so and
# is then replaced; the other way, code between fork and exec, is not safe beside threads.
_SHELL = ("/bin/sh", "-c", 'exec "$@" <>"$0" >&0 2>&1')
_MAX = 0xFFFF


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal's window, in characters."""

    columns: int
    rows: int


def resize(descriptor: int, size: Size) -> None:
    """Set the window's size; the kernel tells the programs in it."""
    winsize = struct.pack("HHHH", min(size.rows, _MAX), min(size.columns, _MAX), 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, winsize)


def spawn_in_terminal(
    command: Sequence[str], environment: Mapping[str, str], folder: str, size: Size, user: User
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a program in a terminal of its own.

    Returns:
        The process, and the descriptor of the side from which the terminal is operated.

    Raises:
        SpawnError: it cannot be started.
    """
    try:
        operated_by, used_in = pty.openpty()
    except OSError as error:
        raise SpawnError(str(error)) from error
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(os.close, operated_by)
        try:
            resize(operated_by, size)
            user.own(used_in)
            shell = [*_SHELL, os.ttyname(used_in), *command]
            # The child has it open from its first moment: a terminal that nobody has open reports its end.
            process = popen(shell, environment, folder, user, stdin=used_in, output=used_in)
        except (OSError, ValueError) as error:
            raise SpawnError(str(error)) from error
        finally:
            os.close(used_in)
        on_failure.pop_all()
    return process, operated_by
