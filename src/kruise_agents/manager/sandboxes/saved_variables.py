"""The environment variables of a sandbox that is paused without its processes, saved until it boots again.

Variables may hold secrets, so the file is readable for the manager's user only, and removed after the boot. With the
runtime ``bubblewrap`` the sandbox cannot see the file.
"""

from __future__ import annotations

import json
import os

from ..runtime import Layout


class SavedVariables:
    """The file with the variables of one sandbox."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.root / "variables"

    def save(self, variables: dict[str, str]) -> None:
        """Write the file, whole or not at all."""
        draft = self._path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(variables, file)
        draft.rename(self._path)

    def load(self) -> dict[str, str]:
        """Return the saved variables; an empty dictionary if the processes ended before their variables were saved."""
        try:
            loaded: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return loaded

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
