"""What a sandbox can be made from."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from ...protocol.control import ReadyCheck
from ..accounts.quota import Use
from ..runtime import MIB, EgressRules, Limits

_BUILDS = uuid.UUID("7e2f7b52-64f0-4b0e-a2b0-3f4b1f2d9c11")


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of sandbox.

    Parameters:
        limits: what each of its sandboxes may take of the machine.
        variables: environment variables of everything in it; those of the create call come over them.
        start: a shell command that runs from the beginning.
        ready: what a sandbox waits for after that, before it is handed over.
        internet: whether its sandboxes reach the internet when the create call does not say what they reach.
        rootfs: the folder of this machine whose system folders they have; None: those of the machine.
    """

    name: str
    code_interpreter: bool
    limits: Limits = field(default_factory=Limits)
    variables: Mapping[str, str] = field(default_factory=dict)
    start: str | None = None
    ready: ReadyCheck | None = None
    internet: bool = True
    rootfs: str | None = None

    def within(self, rules: EgressRules) -> EgressRules:
        """The rules for a sandbox of it, of which a call asked for ``rules``."""
        return rules if self.internet else rules.closed()

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

    def to_json(self) -> str:
        """What is written down of it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What was written down, also by an older version."""
        facts = json.loads(text)
        ready = facts.pop("ready", None)
        limits = Limits(**facts.pop("limits", {}))
        return cls(**facts, limits=limits, ready=ReadyCheck(**ready) if ready is not None else None)


@dataclass(frozen=True, slots=True)
class PreparedTemplate:
    """A template of one manager, with its prepared files.

    Args:
        files: The file tree that its sandboxes start with a copy of; None: an empty one.
        pool: How many of its sandboxes are kept warm.
    """

    template: Template
    files: Path | None = None
    pool: int = 0


POOLED_TEMPLATE = "code-interpreter-v1"
"""The template of the SDK's code interpreter. The size of its pool is a setting."""


def built_in(limits: Limits) -> list[Template]:
    """Those that every manager has."""
    return [
        Template("base", code_interpreter=False, limits=limits),
        Template("code-interpreter", code_interpreter=True, limits=limits),
        Template("code-interpreter-v1", code_interpreter=True, limits=limits),
    ]


class Templates:
    """The templates of one manager, by name.

    Args:
        created_at: The creation time that the API reports: the start of the manager.
        templates: All of them; None: the built-in ones.
    """

    def __init__(self, created_at: datetime, templates: Iterable[PreparedTemplate] | None = None) -> None:
        self.created_at = created_at
        if templates is None:
            templates = [PreparedTemplate(template) for template in built_in(Limits())]
        self._by_name = {prepared.template.name: prepared for prepared in templates}

    def all(self) -> list[Template]:
        """Every template, by name."""
        return sorted((prepared.template for prepared in self._by_name.values()), key=lambda template: template.name)

    def find(self, reference: str) -> Template | None:
        """The template that ``name`` or ``name:default`` refers to, upper and lower case alike."""
        prepared = self.prepared(reference)
        return None if prepared is None else prepared.template

    def prepared(self, reference: str) -> PreparedTemplate | None:
        """Return the template that ``name`` or ``name:default`` refers to, with its prepared files."""
        name, _, tag = reference.lower().partition(":")
        return self._by_name.get(name) if tag in ("", "default") else None
