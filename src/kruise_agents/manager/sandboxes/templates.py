"""What a sandbox can be made from."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from ..quota import Use
from ..runtime import MIB, Limits

_BUILDS = uuid.UUID("7e2f7b52-64f0-4b0e-a2b0-3f4b1f2d9c11")


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of sandbox."""

    name: str
    code_interpreter: bool
    limits: Limits = field(default_factory=Limits)
    """What each of its sandboxes may take of the machine."""

    @property
    def cpu_count(self) -> int:
        """Whole processors."""
        return self.limits.cpus

    @property
    def memory_mb(self) -> int:
        """MiB."""
        return self.limits.memory // MIB

    @property
    def disk_size_mb(self) -> int:
        """MiB."""
        return self.limits.disk // MIB

    @property
    def build_id(self) -> str:
        """A UUID that stays the same for the same template."""
        return str(uuid.uuid5(_BUILDS, self.name))

    def use(self, *, running: bool = True) -> Use:
        """What one sandbox of it counts for in a quota."""
        return Use(1000 * self.cpu_count, self.memory_mb, running)


def read_template(text: str) -> Template:
    """A template as it was written down, in JSON; it may not exist any more."""
    facts = json.loads(text)
    return Template(**{**facts, "limits": Limits(**facts.get("limits", {}))})


class Templates:
    """The templates of one manager, by name.

    Parameters:
        created_at: the moment from which they exist here: the start of the manager.
        limits: those of every template that says nothing of its own.
    """

    def __init__(self, created_at: datetime, limits: Limits = Limits()) -> None:  # noqa: B008 - cannot be changed
        self.created_at = created_at
        built_in = (
            Template("base", code_interpreter=False, limits=limits),
            Template("code-interpreter", code_interpreter=True, limits=limits),
            Template("code-interpreter-v1", code_interpreter=True, limits=limits),
        )
        self._by_name = {template.name: template for template in built_in}

    def all(self) -> list[Template]:
        """Every template, by name."""
        return sorted(self._by_name.values(), key=lambda template: template.name)

    def find(self, reference: str) -> Template | None:
        """The template that ``name`` or ``name:default`` refers to, upper and lower case alike."""
        name, _, tag = reference.lower().partition(":")
        return self._by_name.get(name) if tag in ("", "default") else None
