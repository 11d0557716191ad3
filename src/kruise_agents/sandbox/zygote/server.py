"""The zygote's loop, which forks a child for each message of the manager, and the code that each child runs."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import platform
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from ...protocol.control import FORKED, TRIAL_OUTPUT, ZYGOTE_READY, ProgramArguments, program_argv
from ..code_interpreter import forked_kernel
from ..code_interpreter.kernel import forked as kernel_in_fork
from ..linux.process import close_all_but, set_process_name
from ..main import begin, run
from .entry import enter, execute

_LATER = (
    "encodings.ascii",
    "kruise_agents.sandbox.code_interpreter.app",
    "uvicorn.lifespan.off",
    "kruise_agents.serving.http_protocol",
)
"""Modules that the import of ``sandbox.main`` does not load, although most programs of sandboxes need them later."""


def main(arguments: Sequence[str], modules: frozenset[str]) -> int:
    """Fork until the manager has gone; in a fork, run a sandbox's program or Jupyter kernel. Return the exit code.

    ``arguments`` holds the descriptor number of the manager's socket. ``modules`` is the result of ``forked.load``.
    """
    descriptor = int(arguments[0])
    set_process_name("zygote")  # otherwise it is the number of the descriptor that Python was executed from
    close_all_but({0, 1, 2, descriptor})
    for name in _LATER:
        importlib.import_module(name)
    importlib.invalidate_caches()  # in forks there is then nothing to free
    hidden = kernel_in_fork.to_hide(modules)
    platform._uname_cache = None  # type: ignore[attr-defined]  # contains the host's name
    # The garbage collector writes to the objects that it visits, and memory that was written to is no longer shared.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the forks
    manager = socket.socket(fileno=descriptor)
    manager.send(ZYGOTE_READY)
    while True:
        data, descriptors, _, _ = socket.recv_fds(manager, 1, 1)
        if not data:
            return 0
        if os.fork() == 0:
            manager.close()
            return _fork(descriptors[0], hidden)
        with (
            socket.socket(fileno=descriptors[0]) as order,
            contextlib.suppress(ConnectionError),
        ):  # the manager does not wait any more
            order.send(FORKED)


def _fork(connection: int, hidden: kernel_in_fork.Hidden) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order = enter(connection)
    if order.trial:
        sys.stdout.write(f"{TRIAL_OUTPUT}\n")
        return 0
    if order.execute:
        execute(order)
    set_process_name(Path(order.command[0]).name)
    sys.orig_argv[:] = order.command
    sys.argv[:] = program_argv(order.command)
    options = ProgramArguments.parse(sys.argv[1:])
    begin()
    if not order.kernel:
        return run(options)
    forked = forked_kernel.fork()
    if isinstance(forked, forked_kernel.WaitingKernel):
        return run(options, forked)
    set_process_name(Path(forked.command[0]).name)
    return kernel_in_fork.run(forked.command, forked.environment, hidden)
