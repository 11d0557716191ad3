"""A template's start command: runs from the beginning, and the sandbox is ready when its check says so."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from .envd.process.spawn import popen
from .envd.users import User, Users
from .state import SandboxState

_POLL_SECONDS = 0.05
_TRY_SECONDS = 5.0
"""How long one try of a check may take."""
_LAST_OUTPUT = 2000
_SHELL = ("/bin/bash", "-l", "-c")


class NotReadyError(Exception):
    """The start command ended with an error, or its check never came true; the text says which, and its output."""


@dataclass(frozen=True, slots=True)
class Check:
    """What says that the start command is ready: one of three, or nothing at all.

    Parameters:
        command: a shell command that succeeds.
        port: a port of the sandbox that accepts connections.
        url: an ``http://`` address on the sandbox's loopback that answers with a status below 400.
        seconds: how long that may take.
    """

    command: str | None
    port: int | None
    url: str | None
    seconds: float

    def __str__(self) -> str:
        if self.port is not None:
            return f"nothing listened on port {self.port}"
        return f"{self.url} did not answer" if self.url is not None else f"the command {self.command!r} did not succeed"

    async def passes(self, start: _Start) -> bool:
        """Try it once."""
        if self.command is not None:
            return await start.succeeds(self.command)
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TRY_SECONDS):
                if self.port is not None:
                    return await _listens(self.port)
                if self.url is not None:
                    return await _answers(self.url)
        return False


async def run_start_command(state: SandboxState, order: Mapping[str, Any]) -> None:
    """Start what a template asks for, and return when it is ready. It goes on after that.

    Parameters:
        order: ``{"start": str, "ready": {"command" | "port" | "url": ..., "seconds": number} | null}``.

    Raises:
        NotReadyError: see there. What was started is ended.
    """
    with tempfile.TemporaryFile() as output:
        start = _Start(state)
        process = start.run(order["start"], output.fileno())
        try:
            await _until_ready(order, start, process, output)
        except BaseException:
            _end(process)
            raise
    _reap_at_end(process)


async def _until_ready(
    order: Mapping[str, Any], start: _Start, process: subprocess.Popen[bytes], output: IO[bytes]
) -> None:
    ready = order["ready"]
    if ready is None:
        return
    check = Check(ready.get("command"), ready.get("port"), ready.get("url"), ready["seconds"])
    loop = asyncio.get_running_loop()
    deadline = loop.time() + check.seconds
    while not await check.passes(start):
        # One that has ended well may have left a server in the background.
        if process.poll():
            raise NotReadyError(f"the start command ended with code {process.returncode}{_said(output)}")
        if loop.time() > deadline:
            raise NotReadyError(f"{check} within {check.seconds:g} seconds of the start command{_said(output)}")
        await asyncio.sleep(_POLL_SECONDS)


class _Start:
    """Programs of the default user, in its home, with the sandbox's variables."""

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


def _reap_at_end(process: subprocess.Popen[bytes]) -> None:
    """It may run as long as the sandbox, and leaves no zombie if it does not."""
    if process.poll() is not None:
        return
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(process.pid)

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        process.wait()

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
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _said(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LAST_OUTPUT))
    text = output.read().decode(errors="replace").strip()
    return f"; its last output:\n{text}" if text else "; it printed nothing"
