"""The server of ``sudo``, in the sandbox's program: it starts commands as the user that a client asks for."""

from __future__ import annotations

import array
import asyncio
import contextlib
import grp
import json
import os
import pwd
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from ..envd.process.identity import start_as
from ..envd.users import UnknownUserError, User, Users
from ..state import SandboxState
from .client import SOCKET, login_command

_GROUP = "sudo"
_FILES = 5
# Opening a terminal by its name makes it the controlling terminal of a new session.
_IN_TERMINAL = ("/bin/sh", "-c", 'exec 3<>"$0"; exec 3>&-; exec "$@"')


class _RefusedError(Exception):
    """The refusal to start a command. The text gives the reason in the words of ``sudo``."""


class SudoServer:
    """A server that starts commands for users of the sandbox, on the socket :data:`.client.SOCKET`."""

    def __init__(self, state: SandboxState) -> None:
        self._state = state
        self._users = Users(state)
        self._path = Path(SOCKET)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o666)
        self._listener.listen(64)
        self._listener.setblocking(False)
        self._keep(self._accept())

    async def close(self) -> None:
        """Stop listening and close all connections. Send no signal to the commands that were started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self._keep(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            try:
                process = await self._start(connection)
            except _RefusedError as error:
                answer: dict[str, Any] = {"error": str(error)}
            except (ValueError, KeyError, TypeError, OSError) as error:
                answer = {"error": f"the request was not understood: {error}"}
            else:
                code = await _follow(process, connection)
                answer = {"code": code if code >= 0 else 128 - code}
            with contextlib.suppress(OSError):
                await loop.sock_sendall(connection, json.dumps(answer).encode() + b"\n")

    async def _start(self, connection: socket.socket) -> subprocess.Popen[bytes]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, received, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(_FILES * array.array("i").itemsize))
                break
            except BlockingIOError:
                await _readable(loop, connection.fileno())
        files = array.array("i")
        for _, _, data in received:
            files.frombytes(data)
        with contextlib.ExitStack() as closing:
            for number in files:
                closing.callback(os.close, number)
            if len(files) != _FILES:
                raise ValueError("it came without its files")
            payload, folder, *standard = files
            request = json.loads(os.pread(payload, os.fstat(payload).st_size, 0))
            return self._run(request, _caller(connection), folder, standard)

    def _run(
        self, request: dict[str, Any], caller: pwd.struct_passwd, folder: int, standard: list[int]
    ) -> subprocess.Popen[bytes]:
        try:
            user = self._users.named(request["user"])
        except UnknownUserError as error:
            raise _RefusedError(f"unknown user {error.name}") from None
        command = _command(request)
        terminal = request.get("terminal")
        if terminal is not None:
            if os.fstat(standard[0]).st_rdev != Path(terminal).stat().st_rdev:
                raise ValueError("the terminal is not its own")
            user.own(standard[0])
            command = [*_IN_TERMINAL, terminal, *command]
        cwd = request["folder"] or (str(user.home) if request["login"] else f"/proc/self/fd/{folder}")
        try:
            return start_as(
                user,
                command,
                env=self._environment(request, user, caller),
                cwd=cwd,
                stdin=standard[0],
                stdout=standard[1],
                stderr=standard[2],
                pass_fds=(folder,),
                own_session=terminal is not None,
                umask=0o022,
            )
        except FileNotFoundError as error:
            missing = "no such folder" if error.filename == cwd else "command not found"
            raise _RefusedError(f"{error.filename}: {missing}") from None
        except OSError as error:
            raise _RefusedError(f"{error.filename or command[0]}: {error.strerror}") from None

    def _environment(self, request: dict[str, Any], user: User, caller: pwd.struct_passwd) -> dict[str, str]:
        variables = {str(name): str(value) for name, value in request["variables"].items()}
        own = {
            "PATH": self._state.path,
            "HOME": str(user.home),
            "USER": user.name,
            "LOGNAME": user.name,
            "SHELL": "/bin/bash",
            "SUDO_USER": caller.pw_name,
            "SUDO_UID": str(caller.pw_uid),
            "SUDO_GID": str(caller.pw_gid),
            "SUDO_COMMAND": " ".join(request["command"]) or "/bin/bash",
        }
        # Variables from the command line win over all others.
        return {**variables, **own, **{name: variables[name] for name in request["set"]}}

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _command(request: dict[str, Any]) -> list[str]:
    command = [str(argument) for argument in request["command"]]
    return login_command(command) if request["login"] else command


def _caller(connection: socket.socket) -> pwd.struct_passwd:
    """Return the client's user, whom the kernel reports. Raise _RefusedError if this user may not use ``sudo``."""
    _, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        caller = pwd.getpwuid(uid)
    except KeyError:
        raise _RefusedError(f"you do not exist in the passwd database (uid {uid})") from None
    if uid != 0 and caller.pw_name not in _members():
        raise _RefusedError(f"{caller.pw_name} is not in the sudoers file.")
    return caller


def _members() -> list[str]:
    try:
        return grp.getgrnam(_GROUP).gr_mem
    except KeyError:
        return []


async def _follow(process: subprocess.Popen[bytes], connection: socket.socket) -> int:
    """Pass on the client's signals, or SIGTERM if the client leaves. Return the exit code when the process ends."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(process.pid)
    signals = asyncio.create_task(_pass_on(pidfd, connection))
    try:
        await _readable(loop, pidfd)
    finally:
        signals.cancel()
        await asyncio.gather(signals, return_exceptions=True)
        os.close(pidfd)
    return process.wait()


async def _pass_on(pidfd: int, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ProcessLookupError):
        while True:
            numbers = await loop.sock_recv(connection, 64)
            if not numbers:
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                return
            for number in numbers:
                with contextlib.suppress(ValueError, OSError):
                    signal.pidfd_send_signal(pidfd, number)


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
