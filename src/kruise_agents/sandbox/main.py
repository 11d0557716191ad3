"""The program inside a sandbox, which serves envd, the relay, the control socket and often a code interpreter.

The manager makes a listening Unix socket for each of these parts and hands the sockets over as file descriptors.
Connections that come before this program is up wait in the listen queue. Under bubblewrap the paths of the manager's
sockets do not exist inside the sandbox, so programs in the sandbox cannot connect to these sockets.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import resource
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..protocol.control import LOG_FORMAT, ProgramArguments
from ..protocol.names import CODE_INTERPRETER_PORT, ENVD_PORT
from ..serving import Server
from .control import ControlRoutes
from .end_of_life import EndTimer, ParentPipe
from .envd import Envd
from .linux.pid1 import supervise
from .linux.process import close_on_exec, set_process_name
from .relay import Relay
from .state import SandboxState
from .sudo import SudoServer

if TYPE_CHECKING:
    from .code_interpreter.forked_kernel import WaitingKernel

_DESCRIPTORS = 65536


def main(argv: Sequence[str]) -> int:
    """Set up this process, run the sandbox program to its end, and return the exit code."""
    arguments = ProgramArguments.parse(argv)
    begin()
    return run(arguments)


def begin() -> None:
    """Set umask, signals and the number of descriptors. Child processes begin with the same settings."""
    close_on_exec()  # otherwise a command could hold the manager's sockets, and the placeholder, open
    os.umask(0o022)
    _set_descriptors()
    # A manager that runs under nohup or in the background of a script may ignore these signals, which terminals send.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(arguments: ProgramArguments, kernel: WaitingKernel | None = None) -> int:
    """Run the sandbox program to its end, and return the exit code. ``kernel`` can become the first Jupyter kernel."""
    # Not below $TMPDIR, which may be long: kernels put Unix sockets into this folder, and Linux allows 107 bytes for
    # the path of a socket. Made here, so that our own init process also removes the folder of a killed program.
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as kernels:
        program = functools.partial(_run, arguments, Path(kernels), kernel)
        return supervise(program) if arguments.own_init else program()


def _run(arguments: ProgramArguments, kernels: Path, kernel: WaitingKernel | None) -> int:
    set_process_name("envd")
    logging.Formatter.converter = time.gmtime  # the manager reads the log's times as UTC
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it also reports the start of each server
    state = SandboxState(
        arguments.user,
        arguments.home,
        arguments.path,
        arguments.python,
        several_users=arguments.several_users,
        memory=arguments.limits.memory,
        disk=arguments.limits.disk,
        own_folders=[Path("/")] if arguments.isolated else [arguments.home, Path(tempfile.gettempdir())],
    )
    asyncio.run(_serve(arguments, state, kernels, kernel))
    return 0


async def _serve(arguments: ProgramArguments, state: SandboxState, kernels: Path, kernel: WaitingKernel | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    descriptors, isolated = arguments.descriptors, arguments.isolated
    envd = Envd(state)
    relay = Relay(_listener(descriptors.relay))
    servers = [Server(envd.app, _listeners(descriptors.envd, ENVD_PORT, isolated=isolated))]
    interpreter = None
    if descriptors.code_interpreter is not None:
        # Imported here, because not every sandbox has a code interpreter.
        from .code_interpreter.app import CodeInterpreter

        interpreter = CodeInterpreter(state, kernels, kernel)
        listeners = _listeners(descriptors.code_interpreter, CODE_INTERPRETER_PORT, isolated=isolated)
        servers.append(Server(interpreter.app, listeners))
    sudo = SudoServer(state) if state.several_users else None
    parent_pipe = ParentPipe(descriptors.parent_pipe, _end_everything)
    parent_pipe.watch()
    routes = ControlRoutes(
        state, EndTimer(_end_everything), parent_pipe, tree=Path("/") if isolated else None, kernel=interpreter
    )
    control = Server(routes.app(), [_listener(descriptors.control)])
    try:
        for server in servers:
            await server.start()
        await relay.start()
        if sudo is not None:
            sudo.start()
        if interpreter is not None:
            await interpreter.start()
        await control.start()  # last: its first answer says that everything is served
        await stop.wait()
    finally:
        await relay.close()
        if sudo is not None:
            await sudo.close()
        await envd.close()
        if interpreter is not None:
            await interpreter.close()
        for server in [control, *servers]:
            await server.stop(grace=0)


def _end_everything() -> None:
    """End this process at once. Then bubblewrap, or our own init process, kills the other processes of the sandbox."""
    os._exit(0)


def _set_descriptors() -> None:
    """Set the soft limit of open descriptors, which is commonly 1024 in login shells and may be huge in the manager."""
    # Each program that a client starts takes up to four. Some programs close every descriptor up to the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listener(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def _listeners(descriptor: int, port: int, *, isolated: bool) -> list[socket.socket]:
    return [_listener(descriptor), loopback_listener(port)] if isolated else [_listener(descriptor)]


def loopback_listener(port: int) -> socket.socket:
    """Return a socket that listens on ``port`` of 127.0.0.1. Raises OSError if the port is taken."""
    # socket.create_server names no protocol, and asyncio sets TCP_NODELAY only for sockets whose protocol is named TCP.
    # Without TCP_NODELAY, small answers to programs in the sandbox may wait for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener
