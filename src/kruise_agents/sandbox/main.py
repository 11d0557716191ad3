"""The program that runs inside a sandbox: puts envd, the code interpreter and the relay on their sockets.

The manager makes the listening Unix sockets and hands them over as file descriptors. Their paths do not exist inside
the sandbox, so programs in it cannot connect to them, and connections that come before this program is up wait in the
listen queue instead of failing.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
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

from ..serving import Server
from .control import control_app
from .end_of_life import EndTime, Leash
from .envd import Envd
from .linux import limits
from .linux.pid1 import supervise
from .linux.user_namespace import become_root_of_sandbox
from .relay import Relay
from .state import SandboxState
from .sudo import SudoServer

if TYPE_CHECKING:
    from .code_interpreter.forked_kernel import WaitingKernel

ENVD_PORT = 49983
CODE_INTERPRETER_PORT = 49999
_PR_SET_NAME = 15
_DESCRIPTORS = 65536


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM. Returns the exit code."""
    options = parse(arguments)
    begin(options)
    return run(options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the program. Ends it when they are wrong."""
    return _parser().parse_args(arguments)


def begin(options: argparse.Namespace) -> None:
    """What is for the whole process and all that it starts; must be called while it has one thread."""
    limits.apply(options)
    if options.several_users:
        become_root_of_sandbox(options.home)
    # Every program started here inherits these, and a manager under nohup ignores signals that a terminal needs.
    os.umask(0o022)
    _allow_many_descriptors()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(options: argparse.Namespace, kernel: WaitingKernel | None = None) -> int:
    """Run until SIGTERM. Returns the exit code.

    Parameters:
        kernel: what the first kernel is made of, if there is such a thing.
    """
    # Not below $TMPDIR, which may be long: kernels put Unix sockets there, whose paths have 107 bytes at most.
    # Made here, so that with an init process of our own it goes also when the program had to be killed.
    with tempfile.TemporaryDirectory(prefix="k-", dir="/tmp") as kernels:
        program = functools.partial(_run, options, Path(kernels), kernel)
        return supervise(program) if options.own_init else program()


def _run(options: argparse.Namespace, kernels: Path, kernel: WaitingKernel | None) -> int:
    call_ourselves(b"envd")
    logging.Formatter.converter = time.gmtime  # the manager reads the times
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    state = SandboxState(
        options.user,
        options.home,
        options.path,
        options.python,
        several_users=options.several_users,
        memory=options.memory,
        disk=options.disk,
        own_folders=[Path("/")] if options.isolated else [options.home, Path(tempfile.gettempdir())],
    )
    asyncio.run(_serve(options, state, kernels, kernel))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kruise_agents.sandbox", description=__doc__)
    parser.add_argument("--user", required=True, help="name of the default user")
    parser.add_argument("--home", required=True, type=Path, help="the user's home folder")
    parser.add_argument("--several-users", action="store_true", help="started in a namespace with ids for them")
    parser.add_argument("--path", required=True, help="PATH of every program")
    parser.add_argument("--python", required=True, type=Path, help="interpreter for kernels")
    parser.add_argument("--control-fd", required=True, type=int)
    parser.add_argument("--envd-fd", required=True, type=int)
    parser.add_argument("--relay-fd", required=True, type=int)
    parser.add_argument("--leash-fd", required=True, type=int, help="its end of file ends us until we are taken")
    parser.add_argument("--code-interpreter-fd", type=int, help="left out: no code interpreter here")
    parser.add_argument("--isolated", action="store_true", help="the file tree and the loopback network are our own")
    parser.add_argument("--own-init", action="store_true", help="no pid namespace around us: reap and end all")
    limits.add_options(parser)
    return parser


async def _serve(options: argparse.Namespace, state: SandboxState, kernels: Path, kernel: WaitingKernel | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    envd = Envd(state)
    relay = Relay(_listener(options.relay_fd))
    servers = [Server(envd.app, _listeners(options.envd_fd, ENVD_PORT, options))]
    interpreter = None
    if options.code_interpreter_fd is not None:
        # Only sandboxes that have one pay for the import.
        from .code_interpreter import CodeInterpreter

        interpreter = CodeInterpreter(state, kernels, kernel)
        listeners = _listeners(options.code_interpreter_fd, CODE_INTERPRETER_PORT, options)
        servers.append(Server(interpreter.app, listeners))
    sudo = SudoServer(state) if state.several_users else None
    leash = Leash(options.leash_fd, _end_everything)
    leash.hold()
    failure = interpreter.failure if interpreter is not None else None
    routes = control_app(state, EndTime(_end_everything), leash, Path("/") if options.isolated else None, failure)
    control = Server(routes, [_listener(options.control_fd)])
    try:
        for server in servers:
            await server.start()
        await relay.start()
        if sudo is not None:
            sudo.start()
        if interpreter is not None:
            await interpreter.start()
        await control.start()
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
    """At once, as a kill does; the process above this one ends the others."""
    os._exit(0)


def _allow_many_descriptors() -> None:
    """Each process takes three to four, and login shells are commonly given 1024; more is for programs that ask."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def call_ourselves(name: bytes) -> None:
    """Give this process a name, so that ``pkill python`` ends the programs that are meant, and not the sandbox."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name, 0, 0, 0)


def _listener(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def _listeners(descriptor: int, port: int, options: argparse.Namespace) -> list[socket.socket]:
    """The manager's socket, and where the loopback network is ours the port that programs in here expect."""
    if not options.isolated:
        return [_listener(descriptor)]
    return [_listener(descriptor), loopback_listener(port)]


def loopback_listener(port: int) -> socket.socket:
    """Listens on 127.0.0.1.

    The protocol is named, which ``socket.create_server`` does not do: asyncio sets TCP_NODELAY only where it is, and
    without it, small answers to programs in here wait for 40 ms.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener
