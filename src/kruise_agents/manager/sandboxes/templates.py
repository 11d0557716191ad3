"""What a sandbox can be made from."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from ..quota import Use

_BUILDS = uuid.UUID("7e2f7b52-64f0-4b0e-a2b0-3f4b1f2d9c11")


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of sandbox. ``cpu_count`` is whole CPUs, ``memory_mb`` and ``disk_size_mb`` are MiB; they are reported,
    not enforced.
    """

    name: str
    code_interpreter: bool
    cpu_count: int = 2
    memory_mb: int = 512
    disk_size_mb: int = 1024

    @property
    def build_id(self) -> str:
        """A UUID that stays the same for the same template."""
        return str(uuid.uuid5(_BUILDS, self.name))

    def use(self, *, running: bool = True) -> Use:
        """What one sandbox of it counts for in a quota."""
        return Use(1000 * self.cpu_count, self.memory_mb, running)


class Templates:
    """The templates of one manager, by name.

    ``created_at`` is the moment from which they exist here: the start of the manager.
    """

    def __init__(self, created_at: datetime) -> None:
        self.created_at = created_at
        built_in = (
            Template("base", code_interpreter=False),
            Template("code-interpreter", code_interpreter=True),
            Template("code-interpreter-v1", code_interpreter=True),
        )
        self._by_name = {template.name: template for template in built_in}

    def all(self) -> list[Template]:
        """Every template, by name."""
        return sorted(self._by_name.values(), key=lambda template: template.name)

    def find(self, reference: str) -> Template | None:
        """The template that ``name`` or ``name:default`` refers to, upper and lower case alike."""
        name, _, tag = reference.lower().partition(":")
        return self._by_name.get(name) if tag in ("", "default") else None
