"""Environment variables of a running kernel, set by source code in silent requests.

The requests are separate from the user's code, because source in front of that code would move its line numbers. Values
are written as literals of the language, so that a value is not read as code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

Changes: TypeAlias = Mapping[str, str | None]  # new values of variables by name; None removes a variable
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def difference(present: Mapping[str, str], wanted: Mapping[str, str]) -> Changes:
    """Return the changes that turn ``present`` into ``wanted``."""
    removed = dict.fromkeys(name for name in present if name not in wanted)
    return {**removed, **{name: value for name, value in wanted.items() if present.get(name) != value}}


def restoration(changed: Mapping[str, str], base: Mapping[str, str]) -> Changes:
    """Return changes that undo ``changed``: each variable gets its value in ``base``, or is unset if absent there."""
    return {name: base.get(name) for name in changed}


def python_assignment(changes: Changes) -> str:
    """Return a Python expression that makes the changes, and leaves no variable behind."""
    values, removed = _split(changes)
    environ = "__import__('os').environ"
    return f"({environ}.update({values!a}), [{environ}.pop(name, None) for name in {removed!a}])"


def javascript_assignment(changes: Changes) -> str:
    """Return the changes as a statement that is valid in JavaScript and in TypeScript."""
    values, removed = _split(changes)
    return (
        f"void (Object.assign(process.env, {json.dumps(values)}), "
        f"{json.dumps(removed)}.forEach((name) => delete process.env[name]))"
    )


def bash_assignment(changes: Changes) -> str:
    """Return the changes as a Bash line. If Bash does not permit a name, the line omits it and ends with ``false``."""
    possible = {name: value for name, value in changes.items() if _NAME.fullmatch(name)}
    parts = [
        f"unset {name}" if value is None else f"export {name}={_bash_text(value)}" for name, value in possible.items()
    ]
    return "; ".join(parts if len(possible) == len(changes) else [*parts, "false"])


def r_assignment(changes: Changes) -> str:
    """Return the changes as an expression in R."""
    values, removed = _split(changes)
    settings = [f"`{name}` = {json.dumps(value)}" for name, value in values.items()]
    parts = [f"Sys.setenv({', '.join(settings)})"] if settings else []
    if removed:
        parts.append(f"Sys.unsetenv(c({', '.join(map(json.dumps, removed))}))")
    return f"invisible({{{'; '.join(parts)}}})"


def java_assignment(changes: Changes) -> str:
    """Return the changes as Java that sets system properties, because Java cannot change environment variables."""
    return " ".join(
        f"System.clearProperty({json.dumps(name)});"
        if value is None
        else f"System.setProperty({json.dumps(name)}, {json.dumps(value)});"
        for name, value in changes.items()
    )


def _split(changes: Changes) -> tuple[dict[str, str], list[str]]:
    values = {name: value for name, value in changes.items() if value is not None}
    return values, [name for name, value in changes.items() if value is None]


def _bash_text(text: str) -> str:
    return "$'" + "".join(map(_bash_character, text)) + "'"


def _bash_character(character: str) -> str:
    if character.isalnum() and character.isascii():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
