"""The command ``shell``: a terminal in a sandbox, joined to the user's own terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from shlex import join, quote
from typing import Any

import click

from .errors import SandboxCommandError
from .options import SANDBOX, USER, VARIABLES, WORKDIR, connected
from .sdk import Sandbox, enter
from .streams import exit_code

_CHUNK = 4096


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@USER
@WORKDIR
@VARIABLES
@SANDBOX
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@connected
@click.pass_context
def shell(
    context: click.Context,
    user: str | None,
    workdir: str | None,
    variables: tuple[tuple[str, str], ...],
    sandbox: str,
    command: tuple[str, ...],
) -> None:
    """Open a shell in a sandbox, or run COMMAND in a terminal there; the exit code is that of the shell.

    Keys go to the sandbox, Ctrl-C too; Ctrl-D or `exit` ends the shell. The size of the window follows.
    """
    line = join(command[1:] if command[:1] == ("--",) else command)
    place = {"user": user, "cwd": workdir, "envs": dict(variables) or None}
    context.exit(run_in_terminal(enter(sandbox), line, **place))


def run_in_terminal(sandbox: Sandbox, line: str, **place: Any) -> int:
    """Run a command, or bash where ``line`` is empty, in a terminal of a sandbox, and return the exit code."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SandboxCommandError("standard input and output are no terminal; use 'kruise-agents sandbox exec' instead")
    if line:
        # The SDK starts bash in a terminal, and nothing else. Bash runs this before its first prompt, so the
        # command takes the place of the shell without being typed.
        place["envs"] = {
            **(place.get("envs") or {}),
            "PROMPT_COMMAND": f"unset PROMPT_COMMAND; exec bash -c {quote(line)}",
        }
    terminal = _Terminal(sandbox, sandbox.pty.create(size=_size(), timeout=0, **place))
    try:
        return terminal.run()
    finally:
        terminal.close()


def _size() -> Any:
    from e2b import PtySize

    columns, rows = os.get_terminal_size(1)
    return PtySize(rows=rows, cols=columns)


class _Terminal:
    """The user's terminal while it shows a terminal of a sandbox.

    A thread writes the output. The main thread passes keys and sizes on, because signals arrive there.
    """

    def __init__(self, sandbox: Sandbox, handle: Any) -> None:
        self._sandbox = sandbox
        self._handle = handle
        self._woken, self._wake = os.pipe()
        self._ended = False
        self._code: int | None = None
        self._error: BaseException | None = None

    def run(self) -> int:
        output = threading.Thread(target=self._write_output, daemon=True)
        with _raw_mode(), self._size_changes():
            output.start()
            while not self._ended:
                ready, _, _ = select.select([0, self._woken], [], [])
                if self._woken in ready:
                    if b"w" in os.read(self._woken, _CHUNK):
                        self._pass(self._sandbox.pty.resize, _size())
                elif keys := os.read(0, _CHUNK):
                    self._pass(self._sandbox.pty.send_stdin, keys)
                else:
                    break  # the user's terminal is gone
        if self._error is not None:
            raise self._error
        return self._code or 0

    def close(self) -> None:
        """End the shell, if it has not ended by itself."""
        if not self._ended:
            with contextlib.suppress(Exception):  # the sandbox is gone, or cannot be reached
                self._handle.kill()

    def _pass(self, call: Any, value: Any) -> None:
        from e2b import NotFoundException

        # The shell may just have ended; the end of its output tells the exit code.
        with contextlib.suppress(NotFoundException):
            call(self._handle.pid, value)

    def _write_output(self) -> None:
        try:
            self._code = exit_code(self._handle, on_pty=lambda chunk: _write_all(bytes(chunk)))
        except BaseException as error:  # raised in the main thread
            self._error = error
        self._ended = True
        os.write(self._wake, b"e")

    @contextlib.contextmanager
    def _size_changes(self) -> Iterator[None]:
        before = signal.signal(signal.SIGWINCH, lambda *_: os.write(self._wake, b"w"))
        try:
            yield
        finally:
            signal.signal(signal.SIGWINCH, before)


@contextlib.contextmanager
def _raw_mode() -> Iterator[None]:
    """Pass every key on, Ctrl-C too, and restore the terminal at the end, also when a signal ends this program."""

    def end(number: int, frame: object) -> None:
        sys.exit(128 + number)

    settings = termios.tcgetattr(0)
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    tty.setraw(0)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, settings)
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_all(content: bytes) -> None:
    while content:
        content = content[os.write(1, content) :]
