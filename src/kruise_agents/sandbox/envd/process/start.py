"""``StartRequest``: from the message to a running process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...connect import Code, ConnectError, Json, Message
from ...state import SandboxState
from ..paths import PathError, resolve
from ..system_errors import reason
from ..users import User
from .process import Process
from .spawn import SpawnError, spawn
from .terminal import Size, spawn_in_terminal


def start_process(
    request: Message, state: SandboxState, user: User, on_end: Callable[[Process, Json], None]
) -> Process:
    """Start what a ``StartRequest`` describes.

    Raises:
        ConnectError: ``invalid_argument``: the working directory is missing, or nothing can be started;
            ``permission_denied``: the way to the working directory is closed.
    """
    wanted = request.message("process")
    if wanted is None:
        raise ConnectError(Code.INVALID_ARGUMENT, "a process to start is required")
    command = [wanted.text("cmd"), *wanted.texts("args")]
    variables = wanted.text_map("envs")
    environment = {**state.environment(user.name, user.home), **variables}
    folder = _folder(wanted.text("cwd"), user)
    config: dict[str, Any] = {"cmd": command[0], "args": command[1:], "envs": variables}
    if (cwd := wanted.optional_text("cwd")) is not None:
        config["cwd"] = cwd
    tag = request.optional_text("tag")
    pty = request.message("pty")
    try:
        if pty is not None:
            popen, descriptor = spawn_in_terminal(command, environment, folder, window_size(pty), user)
            return Process(popen, config, tag, on_end, descriptor, state.take_kill_reason)
        popen = spawn(command, environment, folder, user, with_stdin=request.flag("stdin", True))
        return Process(popen, config, tag, on_end, why_killed=state.take_kill_reason)
    except SpawnError as error:
        text = (
            f"error starting process '{command[0]}': {error}"
            if pty is None
            else f"error starting pty with command '{' '.join(command)}': {error}"
        )
        raise ConnectError(Code.INVALID_ARGUMENT, text) from error


def window_size(pty: Message) -> Size:
    """The size in a ``PTY`` message; zeros where it has none."""
    size = pty.message("size") or Message({})
    return Size(columns=size.uint32("cols"), rows=size.uint32("rows"))


def _folder(cwd: str, user: User) -> str:
    try:
        folder = resolve(cwd, user)
    except PathError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, str(error)) from error
    try:
        Path(folder).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConnectError(Code.INVALID_ARGUMENT, f"cwd '{folder}' does not exist") from None
    except PermissionError as error:
        raise ConnectError(Code.PERMISSION_DENIED, f"cwd '{folder}': {reason(error)}") from error
    except OSError as error:
        raise ConnectError(Code.INVALID_ARGUMENT, f"cwd '{folder}': {reason(error)}") from error
    return folder
