"""The kernel program: ipykernel with the settings of E2B's template and a lossless output channel."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import zmq
from ipykernel import ipkernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.profiledir import ProfileDir
from tornado.ioloop import IOLoop
from traitlets.config import Config

from . import formatters, images, output, packing, threads

OUTPUT_MESSAGES_IN_FLIGHT = 64  # that a slow reader has not taken, before the output channel blocks


class _SysWithoutModules:
    modules: Mapping[str, object] = MappingProxyType({})

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class _Settings(Config):
    """Settings in which a section is found fast. Each object asks for a section of each of its classes."""

    def _has_section(self, key: str) -> bool:
        return dict.__contains__(self, key)


class _Profile(ProfileDir):
    """A profile that makes no inner folders. Looking for missing ones is faster than making and removing them."""

    def check_dirs(self, change: object = None) -> None:
        pass

    check_log_dir = check_startup_dir = check_security_dir = check_pid_dir = check_dirs


class KernelApplication(IPKernelApp):
    """ipykernel's application, changed so that slow readers lose no output and an interrupt wakes the event loop."""

    def _bind_socket(self, s: Any, port: int) -> Any:
        if s.type in (zmq.PUB, zmq.XPUB):
            # By default a publisher drops messages that a slow subscriber has not read. This publisher blocks instead.
            s.setsockopt(zmq.SNDHWM, OUTPUT_MESSAGES_IN_FLIGHT)
            s.setsockopt(zmq.XPUB_NODROP, 1)
        return super()._bind_socket(s, port)  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def init_profile_dir(self) -> None:
        """Set the profile, but make none of its inner folders, to which nothing in a sandbox writes."""
        if not self.trait_has_value("profile_dir"):
            self.profile_dir = _Profile(location=f"{self.ipython_dir}/profile_{self.profile}")
            self.config_file_paths.append(self.profile_dir.location)

    def parse_command_line(self, argv: object = None) -> None:
        """Do nothing: the configuration has all settings, and a parser for every option takes milliseconds to make."""

    def init_kernel(self) -> None:
        # ipykernel 7.4 lists the files of all modules for a debugger, even without one. That writes to the memory of
        # all modules, which forks would otherwise share.
        names = vars(ipkernel)
        names["sys"] = _SysWithoutModules()
        try:
            super().init_kernel()  # type: ignore[no-untyped-call]  # as above
        finally:
            names["sys"] = sys

    def start(self) -> None:
        # ipykernel 7.4 interrupts awaiting code by a callback, which a signal handler adds to the event loop. That does
        # not wake the loop, so the code would wait until something else happens. A wake-up descriptor wakes the loop.
        self._signalled, wake_up = socket.socketpair()
        for end in (self._signalled, wake_up):
            end.setblocking(False)
        self._wake_up = wake_up
        IOLoop.current().add_handler(self._signalled, self._take_signals, IOLoop.READ)
        signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
        super().start()  # type: ignore[no-untyped-call]  # ipykernel has types in parts

    def _take_signals(self, source: socket.socket, events: int) -> None:
        source.recv(4096)


_parser = argparse.ArgumentParser(prog="kernel")
_parser.add_argument("-f", dest="connection_file", required=True)
_parser.add_argument("--parent", type=int, default=0)
_parser.add_argument("--kernel")


def main(arguments: Sequence[str]) -> None:
    """Run a kernel until it is told to stop, or until its parent process ends. ``--parent`` is the parent's pid."""
    options = _parser.parse_args(arguments)
    application: Any = KernelApplication.instance(config=configuration(options.parent, options.connection_file))
    if options.kernel is not None:
        application.kernel_class = options.kernel
    with without_debugger():
        application.initialize([])
    application.session.pack = packing.tolerant(application.session.pack)
    threads.install()
    if application.shell is not None:
        extend_shell(application.shell)
    application.start()


def extend_shell(shell: Any) -> None:
    """Keep ``exit()`` from ending the kernel, and install the formatters and the changes to Pillow."""
    # exit() and quit() call this function, and in a sandbox the kernel goes on. The shell's class is not replaced by a
    # subclass, because programs recognise a kernel by the name of that class.
    shell.ask_exit = lambda: None
    formatters.install(shell)
    images.install()


def configuration(parent: int, connection_file: str) -> Config:
    """Return kernel settings similar to those of E2B's template (August 2026)."""
    config = _Settings()
    config.IPKernelApp.parent_handle = parent
    config.IPKernelApp.connection_file = connection_file
    config.IPKernelApp.outstream_class = f"{output.__name__}.{output.LineStream.__name__}"
    config.InteractiveShell.colors = "nocolor"
    config.PlainTextFormatter.max_seq_length = 0
    # A sandbox's history is of no use to another sandbox, and costs a database and a thread.
    config.HistoryManager.enabled = False
    return config


@contextmanager
def without_debugger() -> Iterator[None]:
    """Keep ipykernel from importing debugpy in the ``with`` block. debugpy takes memory, and nobody could reach it."""
    loaded = "debugpy" in sys.modules
    if not loaded:
        sys.modules["debugpy"] = None  # type: ignore[assignment]  # makes an import fail
    try:
        yield
    finally:
        if not loaded:
            del sys.modules["debugpy"]
