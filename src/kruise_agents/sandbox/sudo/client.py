"""The ``sudo`` command of a sandbox, which asks the sandbox's program to start a command as root or another user.

This program runs with ``-I -S`` and uses the standard library only, because every call pays for its imports. In a
sandbox with one user nothing listens on the socket, and this program executes the command itself.
"""

from __future__ import annotations

import array
import fcntl
import getopt
import json
import os
import select
import signal
import socket
import struct
import sys
import termios
import tty
from types import FrameType
from typing import Any, NoReturn

SOCKET = "/run/kruise-agents/sudo"
"""The socket on which the sandbox's program takes requests."""
_FLAGS = "+u:EinHD:"
"""The options for getopt. The plus makes getopt stop at the first word that is not an option."""
_USAGE = "usage: sudo [-EHin] [-u user] [-D directory] [VAR=value] [command [argument ...]]"
_SUPPORTED = "sudo in a sandbox knows -u user, -E, -i, -n, -H and -D directory"
_OF_THE_USER = ("PATH", "HOME", "USER", "LOGNAME")
_KEPT_VARIABLES = ("TERM", "COLORTERM", "LANG", "LANGUAGE", "DISPLAY", "TZ")
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PIECE = 65536


def main(arguments: list[str]) -> int:
    """Run a ``sudo`` command and return the exit code. In a sandbox with one user, ``exec`` the command instead."""
    try:
        request = _request(arguments)
    except (getopt.GetoptError, ValueError) as error:
        sys.stderr.write(f"sudo: {error}\n{_USAGE}\n")
        return 1
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(SOCKET)
    except (FileNotFoundError, ConnectionRefusedError):
        _execute(request)
    with connection:
        return _Session(connection, request).run()


def _request(arguments: list[str]) -> dict[str, Any]:
    """Return the request for the sandbox's program. Raises GetoptError or ValueError for a wrong command line."""
    try:
        options, command = getopt.getopt(arguments, _FLAGS)
    except getopt.GetoptError as error:
        if "not recognized" in error.msg:
            raise ValueError(f"{error}; {_SUPPORTED}") from None
        raise
    flags = dict(options)
    variables = {}
    while command and "=" in command[0] and not command[0].startswith(("=", "/")):
        name, _, value = command.pop(0).partition("=")
        variables[name] = value
    login = "-i" in flags
    if not command and not login:
        raise ValueError("a command is required")
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name not in _OF_THE_USER if "-E" in flags else name in _KEPT_VARIABLES or name.startswith("LC_"))
    }
    # -n and -H change nothing: no password is asked for, and HOME is the user's home without -H too.
    return {
        "command": command,
        "login": login,
        "user": flags.get("-u", "root"),
        "variables": {**kept, **variables},
        "folder": flags.get("-D"),
        "set": sorted(variables),
    }


def _execute(request: dict[str, Any]) -> NoReturn:
    """Replace this process by the command: used if the sandbox has one user. Exit with 1 if that fails."""
    command = request["command"]
    if request["login"]:
        command = login_command(command)
    try:
        if request["folder"]:
            os.chdir(request["folder"])
        os.execvpe(command[0], command, {**os.environ, **request["variables"]})  # noqa: S606 - the purpose of sudo
    except OSError as error:
        sys.stderr.write(f"sudo: {command[0]}: {'command not found' if error.errno == 2 else error.strerror}\n")
        sys.exit(1)


def login_command(command: list[str]) -> list[str]:
    """Return the command line that runs ``command`` in a login shell; an empty ``command`` gives the shell alone."""
    import shlex  # here, because most calls need no login shell

    return ["/bin/bash", "-l", *(["-c", shlex.join(command)] if command else [])]


class _Session:
    """The course of one command, which the sandbox's program runs for this client."""

    def __init__(self, connection: socket.socket, request: dict[str, Any]) -> None:
        self._connection = connection
        self._request = request
        self._answers = b""
        self._operated_by: int | None = None

    def run(self) -> int:
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        files = [0, 1, 2]
        used_in = None
        if os.isatty(0) and os.isatty(1):
            self._operated_by, used_in = os.openpty()
            self._copy_size()
            signal.signal(signal.SIGWINCH, self._copy_size)
            self._request["terminal"] = os.ttyname(used_in)
            files = [used_in if os.isatty(number) else number for number in files]
        self._send(files)
        if used_in is not None:
            os.close(used_in)
        return self._wait()

    def _send(self, files: list[int]) -> None:
        # The request goes into a file of its own: arguments and variables may be too long for one message.
        payload = os.memfd_create("request")
        os.write(payload, json.dumps(self._request).encode(errors="surrogateescape"))
        here = os.open(".", os.O_PATH)
        sent = array.array("i", [payload, here, *files])
        self._connection.sendmsg([b"r"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        os.close(payload)
        os.close(here)

    def _wait(self) -> int:
        if self._operated_by is None:
            while (code := self._answered()) is None:
                pass
            return code
        before = termios.tcgetattr(0)
        try:
            tty.setraw(0, termios.TCSADRAIN)  # keeps the input that was typed already
            return self._relay(self._operated_by)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, before)

    def _relay(self, terminal: int) -> int:
        watched = [0, terminal, self._connection.fileno()]
        code = None
        while True:
            ready, _, _ = select.select(watched, [], [], None if code is None else 0)
            if code is not None and terminal not in ready:
                return code
            if terminal in ready and not _copy(terminal, 1):
                watched.remove(terminal)
            if 0 in ready and not _copy(0, terminal):
                watched.remove(0)
            if self._connection.fileno() in ready:
                code = self._answered()
                if code is not None:
                    watched = [number for number in watched if number == terminal]

    def _answered(self) -> int | None:
        """Read a part of the answer. Return None while the answer is incomplete, else the exit code. Print errors."""
        piece = self._connection.recv(_PIECE)
        self._answers += piece
        if piece and not self._answers.endswith(b"\n"):
            return None
        if not self._answers:
            sys.stderr.write("sudo: the sandbox's agent has ended\n")
            return 1
        answer = json.loads(self._answers)
        if "error" in answer:
            sys.stderr.write(f"sudo: {answer['error']}\n")
            return 1
        return int(answer["code"])

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._connection.send(bytes([number]))

    def _copy_size(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        assert self._operated_by is not None
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        fcntl.ioctl(self._operated_by, termios.TIOCSWINSZ, size)


def _copy(source: int, target: int) -> bool:
    try:
        piece = os.read(source, _PIECE)
    except OSError:
        return False  # the other side of the terminal was closed
    while piece:
        piece = piece[os.write(target, piece) :]
        if not piece:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
