"""The kernel program: ipykernel with the settings of E2B's template and a lossless output channel."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from traitlets.config import Config

from . import formatters, images, output
from . import surrogates as packing

__all__ = ["KernelApplication", "main"]

OUTPUT_MESSAGES_IN_FLIGHT = 64
"""How many messages may wait for a slow reader before the output channel blocks."""


class KernelApplication(IPKernelApp):
    """ipykernel's application, started for a server that is always there and reads everything."""

    def _bind_socket(self, s: Any, port: int) -> Any:
        if s.type in (zmq.PUB, zmq.XPUB):
            # A publisher drops what a slow subscriber has not read. Output must not get lost, so it blocks.
            s.setsockopt(zmq.SNDHWM, OUTPUT_MESSAGES_IN_FLIGHT)
            s.setsockopt(zmq.XPUB_NODROP, 1)
        return super()._bind_socket(s, port)  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def start(self) -> None:
        """Serves requests until told to stop."""
        # ipykernel 7.4 answers an interrupt of awaiting code with a callback for its loop. In the thread of the
        # loop that does not wake it, and the code would wait on until something else happens.
        self._signalled, wake_up = socket.socketpair()
        for end in (self._signalled, wake_up):
            end.setblocking(False)
        self._wake_up = wake_up
        IOLoop.current().add_handler(self._signalled, self._take_signals, IOLoop.READ)
        signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
        super().start()  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def _take_signals(self, source: socket.socket, events: int) -> None:
        source.recv(4096)


def main(arguments: Sequence[str]) -> None:
    """Runs a kernel until it is told to stop or its parent is gone.

    ``arguments``: ``-f`` connection file, ``--parent`` process id of the server, ``--kernel`` the class of the kernel
    for another language than Python.
    """
    parser = argparse.ArgumentParser(prog="kernel")
    parser.add_argument("-f", dest="connection_file", required=True)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--kernel")
    options = parser.parse_args(arguments)

    application: Any = KernelApplication.instance(config=configuration(options.parent))
    if options.kernel is not None:
        application.kernel_class = options.kernel
    with without_debugger():
        application.initialize(["-f", options.connection_file])
    application.session.pack = packing.tolerant(application.session.pack)
    if application.shell is not None:
        furnish(application.shell)
    application.start()


def furnish(shell: Any) -> None:
    """What Python's shell has more than ipykernel gives it."""
    # What exit() and quit() call: in a sandbox the kernel goes on. Not a class of our own with this method, because
    # programs recognise a kernel by the name of the shell's class.
    shell.ask_exit = lambda: None
    formatters.install(shell)
    images.install()


def configuration(parent: int) -> Config:
    """The settings of the template's kernel (code interpreter, August 2026)."""
    config = Config()
    config.IPKernelApp.parent_handle = parent
    config.IPKernelApp.outstream_class = f"{output.__name__}.{output.LineStream.__name__}"
    config.InteractiveShell.colors = "nocolor"
    config.PlainTextFormatter.max_seq_length = 0
    # The history of a sandbox is of no use to another one; a database and its thread are saved.
    config.HistoryManager.enabled = False
    return config


@contextmanager
def without_debugger() -> Iterator[None]:
    """Keeps ipykernel from loading debugpy, which costs memory in every kernel and that nobody can reach."""
    loaded = "debugpy" in sys.modules
    if not loaded:
        sys.modules["debugpy"] = None  # type: ignore[assignment]  # how an import is made to fail
    try:
        yield
    finally:
        if not loaded:
            del sys.modules["debugpy"]
