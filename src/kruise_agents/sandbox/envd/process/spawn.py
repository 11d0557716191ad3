"""Starting a program."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Mapping, Sequence

from ..system_errors import reason
from ..users import User
from .identity import start_as

_UMASK = 0o022
# What makes a shell answer with 127 or 126, or run a script that has no first line.
_LEFT_TO_THE_SHELL = {errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC}
_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')


class SpawnError(Exception):
    """The program cannot be started at all; the text says why."""


def spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: str, user: User, *, with_stdin: bool
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with pipes for its output and, if asked for, its input.

    Raises:
        SpawnError: neither the program nor a shell that would report what is wrong with it can be started.
    """
    stdin = subprocess.PIPE if with_stdin else subprocess.DEVNULL
    try:
        try:
            return popen(command, environment, folder, user, stdin=stdin, output=subprocess.PIPE)
        except OSError as error:
            if error.errno not in _LEFT_TO_THE_SHELL:
                raise
            return popen([*_SHELL, *command], environment, folder, user, stdin=stdin, output=subprocess.PIPE)
    except OSError as error:
        raise SpawnError(f"{error.filename}: {reason(error)}" if error.filename else reason(error)) from error
    except ValueError as error:
        raise SpawnError(str(error)) from error


def popen(
    command: Sequence[str], environment: Mapping[str, str], folder: str, user: User, *, stdin: int, output: int
) -> subprocess.Popen[bytes]:
    """``subprocess.Popen`` with what every program here has in common."""
    return start_as(
        user,
        lambda identity: subprocess.Popen(
            command,
            bufsize=0,
            env=environment,
            cwd=folder,
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=_UMASK,
            **identity,
        ),
    )
