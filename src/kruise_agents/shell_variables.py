"""Environment variables as text, for shells, ``.env`` files, programs and the steps of a GitHub workflow."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import sys
from collections.abc import Mapping

from .errors import ConfigurationError

FORMATS = ("shell", "dotenv", "json", "github")
"""``shell`` is for ``eval "$(…)"``, ``dotenv`` for ``.env`` files, ``github`` for ``… >> "$GITHUB_ENV"``."""
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=~\[\]-]*")
_SECRET = re.compile(r"_(KEY|TOKEN)$")


def print_variables(variables: Mapping[str, str], form: str) -> None:
    """Write variables to standard output in one of :data:`FORMATS`.

    With ``github``, standard error gets the commands that hide keys and tokens in the log of the workflow.

    Raises:
        ConfigurationError: A value has no form that all readers of ``.env`` files read alike.
    """
    text = format_variables(variables, form)
    if form == "github":
        # A step's log shows its environment, and its standard output goes into a file. The runner reads both streams.
        for name, value in variables.items():
            for line in value.splitlines() if _SECRET.search(name) else ():
                # The runner reads %25 as a percent sign (actions/toolkit, packages/core/src/command.ts).
                print(f"::add-mask::{line.replace('%', '%25')}", file=sys.stderr, flush=True)
    print(text, flush=True)


def format_variables(variables: Mapping[str, str], form: str) -> str:
    """Return variables as the text that :func:`print_variables` writes, without the last line end."""
    if form == "json":
        return json.dumps(dict(variables), indent=2)
    write = {"shell": _shell, "dotenv": _dotenv, "github": _github}[form]
    return "\n".join(write(name, value) for name, value in variables.items())


def _shell(name: str, value: str) -> str:
    return f"export {name}={shlex.quote(value)}"


def _dotenv(name: str, value: str) -> str:
    if _PLAIN.fullmatch(value):
        return f"{name}={value}"
    # In single quotes every reader takes a text as it is; other texts mean something else to each.
    if "'" in value or "\\" in value or not value.isprintable():
        raise ConfigurationError(
            f"the value of {name} has a quote, a backslash or a line end, which readers of .env files read in "
            f"different ways; use --format json or shell"
        )
    return f"{name}='{value}'"


def _github(name: str, value: str) -> str:
    if "\n" not in value and "\r" not in value:
        return f"{name}={value}"
    end = f"end_{secrets.token_hex(8)}"
    return f"{name}<<{end}\n{value}\n{end}"
