"""Options, arguments and their types that several commands share."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..exit_codes import EXIT_INTERRUPTED
from .connection import connect

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PATIENCE = 2.0
"""Seconds that the completion of an ID waits for the manager."""


def duration(value: str) -> int:
    """Return the seconds of ``90``, ``90s``, ``10m``, ``2h`` or ``1d``."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a duration; write seconds, or 90s, 10m, 2h, 1d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def pair(value: str) -> tuple[str, str]:
    """Return the name and the value of ``NAME=VALUE``."""
    name, equals, content = value.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{value!r} is not NAME=VALUE")
    return name, content


def connected(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the connection to a command, and patch the SDK before the command runs."""

    @click.option("--https/--http", "https", default=None, help="How to reach the manager; it is found out if not set.")
    @functools.wraps(function)
    def command(https: bool | None, **values: Any) -> Any:
        try:
            with connect(https):
                return function(**values)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)

    return command


def output_option(*forms: str) -> Callable[..., Any]:
    """Return the option ``-o`` with the forms that a command has."""
    return click.option("-o", "--output", "form", type=click.Choice(forms), help="Form of the output.")


def _complete_id(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    # A shell shows an error in the middle of the line that the user writes, so every failure means: no suggestions.
    try:
        from .sdk import is_id, sandbox_class

        with connect(None, quiet=True):
            found = sandbox_class().list(limit=100, request_timeout=_PATIENCE).next_items()
    except Exception:  # of the SDK, of the patch, of the network
        return []
    ids = [info.sandbox_id for info in found if is_id(info.sandbox_id)]
    return [CompletionItem(name) for name in ids if name.startswith(incomplete)]


SANDBOX = click.argument("sandbox", metavar="SANDBOX", shell_complete=_complete_id)
SANDBOXES = click.argument("sandboxes", metavar="SANDBOX...", nargs=-1, shell_complete=_complete_id)
USER = click.option("-u", "--user", help="User in the sandbox.")
WORKDIR = click.option("-w", "--workdir", help="Working directory in the sandbox.")
VARIABLES = click.option(
    "-e", "--env", "variables", type=pair, metavar="NAME=VALUE", multiple=True, help="Environment variable."
)
