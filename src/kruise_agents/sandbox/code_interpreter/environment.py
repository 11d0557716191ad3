"""Environment variables inside a Python kernel, as source for silent requests.

They are set in requests of their own: in front of the user's code they would move its line numbers. The
source is one expression that binds no name, and values are Python literals, so that no value can break it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Changes", "assignment", "difference", "restoration"]

Changes: TypeAlias = Mapping[str, str | None]
"""Variables and their new values; None removes one."""


def difference(present: Mapping[str, str], wanted: Mapping[str, str]) -> Changes:
    """What has to change for ``present`` to become ``wanted``."""
    removed = dict.fromkeys(name for name in present if name not in wanted)
    return {**removed, **{name: value for name, value in wanted.items() if present.get(name) != value}}


def restoration(changed: Mapping[str, str], base: Mapping[str, str]) -> Changes:
    """What undoes ``changed``: back to the value in ``base``, or away."""
    return {name: base.get(name) for name in changed}


def assignment(changes: Changes) -> str:
    """The source that makes ``changes`` in ``os.environ``."""
    values = {name: value for name, value in changes.items() if value is not None}
    removed = [name for name, value in changes.items() if value is None]
    environ = "__import__('os').environ"
    return f"({environ}.update({values!a}), [{environ}.pop(name, None) for name in {removed!a}])"
