"""Templates: the kinds of sandboxes that a manager offers."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from ...protocol.control import ReadyCheck
from ..accounts.quota import Use
from ..runtime import MIB, EgressRules, Limits

NAME = re.compile(r"[a-z0-9_-]{1,128}")
_VARIABLE_NAME = re.compile(r"[^=\0\ud800-\udfff]+")
_VARIABLE_VALUE = re.compile(r"[^\0\ud800-\udfff]*")
_BUILDS = uuid.UUID("7e2f7b52-64f0-4b0e-a2b0-3f4b1f2d9c11")


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of sandbox. Field names must stay: database rows of sandboxes and snapshots use them."""

    name: str
    code_interpreter: bool
    limits: Limits = field(default_factory=Limits)  # for each sandbox
    variables: Mapping[str, str] = field(default_factory=dict)  # of every process; the create call may override them
    start: str | None = None  # a shell command that runs from the beginning
    ready: ReadyCheck | None = None  # passes when the start command is ready; only then is a sandbox handed over
    internet: bool = True  # False: sandboxes reach only the ranges that a request allows
    rootfs: str | None = None  # a folder of this machine, with system folders to use in place of the machine's

    def within(self, rules: EgressRules) -> EgressRules:
        return rules if self.internet else rules.closed()

    @property
    def cpu_count(self) -> int:
        return self.limits.cpus

    @property
    def memory_mb(self) -> int:
        return self.limits.memory // MIB

    @property
    def disk_size_mb(self) -> int:
        return self.limits.disk // MIB

    @property
    def rootfs_folder(self) -> Path | None:
        return None if self.rootfs is None else Path(self.rootfs)

    @property
    def build_id(self) -> str:
        """Return a UUID that is always the same for the same name."""
        return str(uuid.uuid5(_BUILDS, self.name))

    def use(self, *, running: bool = True) -> Use:
        return Use(1000 * self.cpu_count, self.memory_mb, running)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the output of :meth:`to_json`, of this release or an older release."""
        values = json.loads(text)
        ready = values.pop("ready", None)
        limits = Limits(**values.pop("limits", {}))
        return cls(**values, limits=limits, ready=ReadyCheck(**ready) if ready is not None else None)


@dataclass(frozen=True, slots=True)
class PreparedTemplate:
    """A template of one manager, with its prepared files and the size of its pool."""

    template: Template
    files: Path | None = None  # sandboxes start with a copy of this file tree; None: with a new file tree
    pool: int = 0


POOLED_TEMPLATE = "code-interpreter-v1"
"""The template of the SDK's code interpreter. The setting ``pool`` gives the size of its pool by default."""


def built_in(limits: Limits) -> list[Template]:
    """Return the templates that a manager has without template files."""
    return [
        Template("base", code_interpreter=False, limits=limits),
        Template("code-interpreter", code_interpreter=True, limits=limits),
        Template(POOLED_TEMPLATE, code_interpreter=True, limits=limits),
    ]


class Templates:
    """The templates of one manager, by name. ``created_at`` is the time that the API reports for every template."""

    def __init__(self, created_at: datetime, templates: Iterable[PreparedTemplate]) -> None:
        self.created_at = created_at
        self._by_name = {prepared.template.name: prepared for prepared in templates}

    def all(self) -> list[Template]:
        return sorted((prepared.template for prepared in self._by_name.values()), key=lambda template: template.name)

    def find(self, reference: str) -> Template | None:
        """Return the template for ``name`` or ``name:default``, in upper or lower case; None if there is none."""
        prepared = self.prepared(reference)
        return None if prepared is None else prepared.template

    def prepared(self, reference: str) -> PreparedTemplate | None:
        """Return the template that :meth:`find` returns, with its prepared files and the size of its pool."""
        name = template_name(reference)
        return None if name is None else self._by_name.get(name)


def template_name(reference: str) -> str | None:
    """Return the name in ``name`` or ``name:default``, in lower case; None if no template can have the name."""
    name, _, tag = reference.lower().partition(":")
    return name if tag in ("", "default") and NAME.fullmatch(name) else None


def is_variable(name: str, value: str) -> bool:
    """Return whether programs can be started with an environment variable of this name and value."""
    return bool(_VARIABLE_NAME.fullmatch(name) and _VARIABLE_VALUE.fullmatch(value))
