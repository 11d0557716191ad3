"""The start command of a template, and the check that tells when the command is ready."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import tempfile
from contextlib import ExitStack, suppress
from typing import IO
from urllib.parse import urlsplit

from ..protocol.control import ReadyCheck
from .envd.process.spawn import popen
from .envd.users import User, Users
from .linux.process_tree import kill_tree
from .state import SandboxState

_POLL_SECONDS = 0.05
_TRY_SECONDS = 5.0
_LAST_OUTPUT = 2000
_SHELL = ("/bin/bash", "-l", "-c")

logger = logging.getLogger(__name__)


class NotReadyError(Exception):
    """A start command that failed, or whose check did not pass in time. The text ends with the last output, if any."""


async def run_start_command(state: SandboxState, command: str, ready: ReadyCheck | None) -> None:
    """Start a template's start command, and return when the check ``ready`` passes. Without a check, return at once.

    The command keeps running after the return; if it fails later, the log of the sandbox has its last output. Raises
    OSError if the shell for the command or the check cannot be started. If the command or the check fails, the command
    and its descendants are killed, and NotReadyError is raised.
    """
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryFile())
        programs = _Programs(state)
        process = programs.run(command, output.fileno())
        try:
            if ready is not None:
                await _until_ready(ready, programs, process, output)
        except BaseException:
            _end(process)
            raise
        stack.pop_all()
    _reap_at_end(process, output)


async def _until_ready(
    check: ReadyCheck, programs: _Programs, process: subprocess.Popen[bytes], output: IO[bytes]
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + check.seconds
    while not await _passes(check, programs):
        # A command that has ended with code 0 may have left a server in the background.
        if process.poll():
            raise NotReadyError(f"the start command ended with code {process.returncode}{_last_output(output)}")
        if loop.time() > deadline:
            raise NotReadyError(
                f"{_failure(check)} within {check.seconds:g} seconds of the start command{_last_output(output)}"
            )
        await asyncio.sleep(_POLL_SECONDS)


async def _passes(check: ReadyCheck, programs: _Programs) -> bool:
    if check.command is not None:
        return await programs.succeeds(check.command)
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_TRY_SECONDS):
            if check.port is not None:
                return await _listens(check.port)
            if check.url is not None:
                return await _answers(check.url)
    return False


def _failure(check: ReadyCheck) -> str:
    if check.port is not None:
        return f"nothing listened on port {check.port}"
    return f"{check.url} did not answer" if check.url is not None else f"the command {check.command!r} did not succeed"


class _Programs:
    """A starter of programs that run as the default user, in that user's home, with the sandbox's variables."""

    def __init__(self, state: SandboxState) -> None:
        self._user: User = Users(state).named(None)
        self._environment = state.environment(self._user.name, self._user.home)

    def run(self, command: str, output: int) -> subprocess.Popen[bytes]:
        return popen(
            [*_SHELL, command],
            self._environment,
            str(self._user.home),
            self._user,
            stdin=subprocess.DEVNULL,
            output=output,
        )

    async def succeeds(self, command: str) -> bool:
        process = self.run(command, subprocess.DEVNULL)
        try:
            return await asyncio.to_thread(process.wait, _TRY_SECONDS) == 0
        except subprocess.TimeoutExpired:
            _end(process)
            return False


def _reap_at_end(process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid) if process.poll() is None else None

    def ended() -> None:
        if descriptor is not None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        with output:
            if code := process.wait():
                logger.warning("the start command ended with code %d%s", code, _last_output(output))

    if descriptor is None:
        ended()
    else:
        loop.add_reader(descriptor, ended)


async def _listens(port: int) -> bool:
    _, writer = await asyncio.open_connection("localhost", port)
    writer.close()
    return True


async def _answers(url: str) -> bool:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port or 80)
    try:
        target = f"{address.path or '/'}{'?' if address.query else ''}{address.query}"
        writer.write(f"GET {target} HTTP/1.0\r\nHost: {address.netloc}\r\n\r\n".encode())
        status = re.match(rb"HTTP/1\.[01] ([1-5]\d\d)", await reader.readline())
        return status is not None and int(status[1]) < 400
    finally:
        writer.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        kill_tree(process.pid)
    process.wait()


def _last_output(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LAST_OUTPUT))
    text = output.read().decode(errors="replace").strip()
    return f"; its last output:\n{text}" if text else "; it printed nothing"
