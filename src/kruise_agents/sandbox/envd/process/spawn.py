"""Start of programs, usually with pipes for input and output."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Mapping, Sequence

from ..errors import reason
from ..users import User
from .identity import start_as

_UMASK = 0o022
# After these errors a shell runs the command. The shell can run a script without ``#!`` in its first line, and reports
# any other failure by exit code 126 or 127.
_LEFT_TO_THE_SHELL = {errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENOEXEC}
_SHELL = ("/bin/sh", "-c", 'exec "$0" "$@"')


class SpawnError(Exception):
    """The failure to start a program. The text gives the reason in Go's spelling."""

    def __init__(self, error: OSError | ValueError) -> None:
        text = reason(error) if isinstance(error, OSError) else str(error)
        super().__init__(f"{error.filename}: {text}" if isinstance(error, OSError) and error.filename else text)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], folder: str, user: User, *, with_stdin: bool
) -> subprocess.Popen[bytes]:
    """Start a program with pipes, through a shell if Linux cannot execute it. Raise SpawnError on failure."""
    stdin = subprocess.PIPE if with_stdin else subprocess.DEVNULL
    try:
        try:
            return popen(command, environment, folder, user, stdin=stdin, output=subprocess.PIPE)
        except OSError as error:
            if error.errno not in _LEFT_TO_THE_SHELL:
                raise
            return popen([*_SHELL, *command], environment, folder, user, stdin=stdin, output=subprocess.PIPE)
    except (OSError, ValueError) as error:
        raise SpawnError(error) from error


def popen(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    user: User,
    *,
    stdin: int,
    output: int,
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a program, see :func:`start_as`. ``output`` is passed to Popen as ``stdout`` and ``stderr``."""
    return start_as(
        user,
        command,
        bufsize=0,
        env=environment,
        cwd=folder,
        stdin=stdin,
        stdout=output,
        stderr=output,
        own_session=own_session,
        umask=_UMASK,
    )
