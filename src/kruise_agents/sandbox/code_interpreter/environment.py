"""Environment variables inside a running kernel, as source for silent requests.

They are set in requests of their own: in front of the user's code they would move its line numbers. Values are literals
of the language, so that no value can break the source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Changes", "assignment", "difference", "restoration"]

Changes: TypeAlias = Mapping[str, str | None]
"""Variables and their new values; None removes one."""
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def difference(present: Mapping[str, str], wanted: Mapping[str, str]) -> Changes:
    """What has to change for ``present`` to become ``wanted``."""
    removed = dict.fromkeys(name for name in present if name not in wanted)
    return {**removed, **{name: value for name, value in wanted.items() if present.get(name) != value}}


def restoration(changed: Mapping[str, str], base: Mapping[str, str]) -> Changes:
    """What undoes ``changed``: back to the value in ``base``, or away."""
    return {name: base.get(name) for name in changed}


def assignment(changes: Changes) -> str:
    """Python: one expression that binds no name."""
    values = {name: value for name, value in changes.items() if value is not None}
    removed = [name for name, value in changes.items() if value is None]
    environ = "__import__('os').environ"
    return f"({environ}.update({values!a}), [{environ}.pop(name, None) for name in {removed!a}])"


def javascript_assignment(changes: Changes) -> str:
    """JavaScript and TypeScript."""
    values = {name: value for name, value in changes.items() if value is not None}
    removed = [name for name, value in changes.items() if value is None]
    return (
        f"void (Object.assign(process.env, {json.dumps(values)}), "
        f"{json.dumps(removed)}.forEach((name) => delete process.env[name]))"
    )


def bash_assignment(changes: Changes) -> str:
    """Bash: one line, whatever is in the values. Names that it cannot have are an error there too."""
    parts = []
    for name, value in changes.items():
        if not _NAME.fullmatch(name):
            parts.append(f"export {_bash_text(name)}")  # says what is wrong with it
        else:
            parts.append(f"unset {name}" if value is None else f"export {name}={_bash_text(value)}")
    return "; ".join(parts)


def r_assignment(changes: Changes) -> str:
    """R."""
    set_ = [f"`{name}` = {json.dumps(value)}" for name, value in changes.items() if value is not None]
    unset = [json.dumps(name) for name, value in changes.items() if value is None]
    parts = [f"Sys.setenv({', '.join(set_)})"] if set_ else []
    if unset:
        parts.append(f"Sys.unsetenv(c({', '.join(unset)}))")
    return f"invisible({{{'; '.join(parts)}}})"


def java_assignment(changes: Changes) -> str:
    """Java, where system properties stand for them."""
    return " ".join(
        f"System.clearProperty({json.dumps(name)});"
        if value is None
        else f"System.setProperty({json.dumps(name)}, {json.dumps(value)});"
        for name, value in changes.items()
    )


def _bash_text(text: str) -> str:
    escaped = "".join(
        character if character.isalnum() and character.isascii() else _bash_escape(character) for character in text
    )
    return f"$'{escaped}'"


def _bash_escape(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
