"""The commands that run something in a sandbox without a terminal: ``exec`` and ``run``."""

from __future__ import annotations

import base64
import binascii
import codecs
import os
import sys
import threading
from pathlib import Path
from shlex import join
from typing import Any

import click

from . import output
from .errors import SandboxCommandError
from .options import SANDBOX, USER, VARIABLES, WORKDIR, connected, duration
from .sdk import Sandbox, enter, method, takes
from .streams import Stream, exit_code, write
from .terminal import run_in_terminal

_FOLDER = click.Path(file_okay=False, path_type=Path)
_CHUNK = 32 * 1024
_PICTURES = {"png": True, "jpeg": True, "svg": False}
"""The forms of pictures that a result may have, the best first, and whether its text is base64."""


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Run the command in a terminal; always interactive.")
@click.option("-d", "--detach", is_flag=True, help="Print the process ID and return while the command runs.")
@USER
@WORKDIR
@VARIABLES
@SANDBOX
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@connected
@click.pass_context
def exec_command(
    context: click.Context,
    interactive: bool,
    tty: bool,
    detach: bool,
    user: str | None,
    workdir: str | None,
    variables: tuple[tuple[str, str], ...],
    sandbox: str,
    command: tuple[str, ...],
) -> None:
    """Run a command in a sandbox; the exit code is that of the command.

    The command ends with Ctrl-C. Output is text: to move other bytes, use `cp`.

    \b
    Examples:
      kruise-agents sandbox exec SANDBOX ls -l
      kruise-agents sandbox exec SANDBOX bash -c 'echo $HOME; exit 3'
      kruise-agents sandbox exec -i SANDBOX wc -l < names.txt
      kruise-agents sandbox exec -it SANDBOX python3
    """
    line = join(command[1:] if command[0] == "--" else command)
    if not line:
        raise click.UsageError("Name the command to run.")
    place: dict[str, Any] = {"user": user, "cwd": workdir, "envs": dict(variables) or None}
    entered = enter(sandbox)
    if tty:
        context.exit(run_in_terminal(entered, line, **place))
    if interactive:
        method(entered.commands, "close_stdin", "2.27.0")
        place["stdin"] = True
    handle = _start(entered, line, place)
    if detach:
        output.print_line(handle.pid)
        return
    failures: list[Exception] = []
    if interactive:
        threading.Thread(target=_pass_input, args=(entered, handle, failures), daemon=True).start()
    code = _wait(handle)
    if failures:
        raise SandboxCommandError(f"standard input could not be passed on, so the command was killed: {failures[0]}")
    context.exit(code)


def _start(sandbox: Sandbox, line: str, place: dict[str, Any]) -> Any:
    run = sandbox.commands.run
    keep = {"retain_output": False} if takes(run, "retain_output") else {}
    return run(line, background=True, timeout=0, **place, **keep)


def _wait(handle: Any) -> int:
    stream = Stream(lambda: exit_code(handle))
    try:
        return int(stream.result())
    except BaseException:
        # Ctrl-C, a lost connection, or a reader of our output that is gone: nobody would see what the command does.
        handle.kill()
        raise


def _pass_input(sandbox: Sandbox, handle: Any, failures: list[Exception]) -> None:
    from e2b import NotFoundException

    commands, pid = sandbox.commands, handle.pid
    text = codecs.getincrementaldecoder("utf-8")(errors="replace")
    # Earlier releases take text only; there, bytes that are no text are lost.
    takes_bytes = "bytes" in str(_annotation(commands.send_stdin, "data"))
    try:
        while chunk := os.read(0, _CHUNK):
            commands.send_stdin(pid, chunk if takes_bytes else text.decode(chunk))
        commands.close_stdin(pid)
    except NotFoundException:
        return  # the command has ended without its input
    except Exception as error:  # of the SDK; raised in the main thread
        # Without the end of its input, the command might wait for ever: an older envd cannot pass the end on.
        failures.append(error)
        handle.kill()


def _annotation(function: Any, parameter: str) -> Any:
    import inspect

    return inspect.signature(function).parameters[parameter].annotation


@click.command
@SANDBOX
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("-l", "--language", help="Language of the code; Python if not set.")
@VARIABLES
@click.option("-t", "--timeout", type=duration, help="Time for the code; no limit if not set.")
@click.option("--pictures", type=_FOLDER, help="Folder for pictures; the current one if not set.")
@connected
@click.pass_context
def run(
    context: click.Context,
    sandbox: str,
    file: Any,
    language: str | None,
    variables: tuple[tuple[str, str], ...],
    timeout: int | None,
    pictures: Path | None,
) -> None:
    """Run code from FILE, or from standard input, in the code interpreter of a sandbox.

    Output and results are printed. Pictures are saved, and their names printed. Exit code 1 if the code raised an
    error. Variables stay for the next run in the same sandbox.

    \b
    Examples:
      kruise-agents sandbox run SANDBOX analysis.py
      echo '1 + 1' | kruise-agents sandbox run SANDBOX
    """
    code = file.read()
    entered = enter(sandbox)
    if not hasattr(entered, "run_code"):
        raise SandboxCommandError("the command needs e2b-code-interpreter: pip install e2b-code-interpreter")
    stem = "result" if file.name in ("-", "<stdin>") else Path(file.name).stem
    chosen = {"language": language} if language else {}
    ended = Stream(
        lambda: entered.run_code(
            code,
            **chosen,
            envs=dict(variables) or None,
            timeout=timeout or 0,
            on_stdout=lambda message: write(sys.stdout, message.line),
            on_stderr=lambda message: write(sys.stderr, message.line),
            on_result=lambda result: _show(result, pictures or Path(), stem),
        )
    )
    error = ended.result().error
    if error is not None:
        write(sys.stderr, f"{error.traceback or f'{error.name}: {error.value}'}\n")
        context.exit(1)


def _show(result: Any, folder: Path, stem: str) -> None:
    """Write a result: the first of its pictures into a file, else its text."""
    for form, encoded in _PICTURES.items():
        content = getattr(result, form, None)
        if content:
            path = _save(folder, stem, form, _decoded(content) if encoded else content.encode())
            output.print_line(f"saved {path}")
            return
    text = next((text for form in ("text", "markdown", "html", "latex") if (text := getattr(result, form, None))), None)
    if text:
        write(sys.stdout, f"{text}\n")


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode(content)
    except binascii.Error as error:
        raise SandboxCommandError(f"a picture cannot be saved: it is not base64 ({error})") from None


def _save(folder: Path, stem: str, form: str, content: bytes) -> Path:
    """Write a picture into the first file ``<stem>-<number>.<form>`` that is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder / f"{stem}-{number}.{form}"
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            number += 1
        else:
            return path
