"""The command ``kruise-agents``: finds the module of a subcommand and hands over to it.

This module needs the standard library only, so ``--help`` and ``--version`` work without extras.
"""

from __future__ import annotations

import difflib
import errno
import os
import select
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from .. import __version__
from .exit_codes import EXIT_INTERRUPTED, EXIT_USAGE, fail

__all__ = ["COMMANDS", "COMPLETE_VARIABLE", "PROGRAM", "Command", "main"]

PROGRAM = "kruise-agents"
COMPLETE_VARIABLE = "_KRUISE_AGENTS_COMPLETE"
"""The environment variable with which the scripts of ``completion`` ask for suggestions."""


class Command(NamedTuple):
    """A subcommand. Its module ``cli/<name>.py`` has ``main(arguments: list[str]) -> None``.

    The module also has ``command``, a click command, or ``parser()``, which returns an ``argparse.ArgumentParser``. The
    reference page of the command line is made from them.

    Attributes:
        help: one line for ``kruise-agents --help``.
        extra: the extra that the command needs; None if the base install is enough.
    """

    help: str
    extra: str | None = None


COMMANDS = {
    "serve": Command("Run an embedded sandbox-manager on this machine.", "local"),
    "run": Command("Run an unchanged program with the SDK patched."),
    "env": Command("Print the environment variables of a running manager."),
    "backup": Command("Copy a manager's state folder, also while the manager runs.", "local"),
    "restore": Command("Make a state folder from a backup.", "local"),
    "cert": Command("Make a small certificate authority and a server's certificate.", "local"),
    "doctor": Command("Say why a program does not reach its manager."),
    "proxy": Command("Connect any client of E2B to a manager of the private protocol.", "proxy"),
    "sandbox": Command("List, make, enter and end sandboxes, and copy files.", "cli"),
    "completion": Command("Print the script that completes commands in bash, zsh or fish.", "cli"),
}
"""The subcommands by name, in the order of ``--help``."""
_ABOUT = "Run E2B programs on a self-hosted backend, or on this machine alone."


def main() -> None:
    """Run the command of ``sys.argv``, and end the process with an exit code."""
    try:
        try:
            _run_command_line()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:  # of a command that has nothing to tidy up
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        full = error.errno == errno.ENOSPC and error.filename is None
        if not full and not (error.errno == errno.EPIPE and _reader_is_gone()):
            raise
        # Python writes the rest of the output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if full:
            fail(error.strerror, 1)
        sys.exit(1)


def _reader_is_gone() -> bool:
    """Return whether standard output is a pipe that nobody reads any more, as behind ``| head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run_command_line() -> None:
    if COMPLETE_VARIABLE in os.environ:
        import_module(".completion", __package__).suggest()
        return
    match sys.argv[1:]:
        case [("-h" | "--help"), *_]:
            print(help_text())
        case ["--version", *_]:
            print(f"{PROGRAM}, version {__version__}")
        case [name, *arguments] if name in COMMANDS:
            _run(name, arguments)
        case []:
            print(help_text(), file=sys.stderr)
            sys.exit(EXIT_USAGE)
        case [name, *_]:
            likely = difflib.get_close_matches(name, COMMANDS, 1)
            hint = f"did you mean '{likely[0]}'?" if likely else f"there are {', '.join(COMMANDS)}"
            kind = "option" if name.startswith("-") else "command"
            fail(f"there is no {kind} {name!r}; {hint}")


def help_text() -> str:
    """Return the text of ``kruise-agents --help``."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items()]
    usage = f"Usage: {PROGRAM} COMMAND [OPTIONS] [ARGUMENTS]"
    options = ["Options:", "  --version   Show the version and exit.", "  -h, --help  Show this message and exit."]
    more = f"'{PROGRAM} COMMAND --help' says more about a command."
    return "\n".join([usage, "", f"  {_ABOUT}", "", *options, "", "Commands:", *rows, "", more])


def _run(name: str, arguments: Sequence[str]) -> None:
    try:
        module = import_module(f".{name.replace('-', '_')}", __package__)
    except ModuleNotFoundError as error:
        extra = COMMANDS[name].extra
        if extra is None or (error.name or "").startswith(__package__.partition(".")[0]):
            raise
        fail(
            f"{error.name} is missing; the command needs the extra '{extra}': "
            f"pip install 'kruise-agents[{extra}]', or in a clone pip install '.[{extra}]'"
        )
    module.main(list(arguments))
