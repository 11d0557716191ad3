"""The model of a sandbox, and of the request to create a sandbox."""

from __future__ import annotations

import asyncio
import math
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ...protocol.names import MARK_VARIABLE, PROTECT_KEY, SANDBOX_ID_VARIABLE, TEMPLATE_VARIABLE
from ..accounts.quota import UNLIMITED, Quota, Use
from ..runtime import EgressRules
from ..templates.model import Template
from .lifecycle import Event, State, next_state
from .process import SandboxProcess

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The life span of a sandbox, and what happens at its end time. Field names must stay: database rows use them."""

    seconds: float  # from the start to the end time; after a resume by traffic at least 300
    never_ends: bool = False  # later requests for an end time have no effect
    pause_at_end: bool = False  # at the end time the sandbox is paused instead of ended
    pause_keeps_memory: bool = True  # in the pause at the end time; False: only files are kept
    pause_keeps_files: bool = True  # False: a resume boots the sandbox with the files that it had at first
    wakes_on_traffic: bool = False
    paused_seconds: float | None = None  # until a paused sandbox is ended; None: it is kept for ever

    def enforced(self, seconds: float | None) -> float | None:
        """Return ``seconds`` as the program's own time limit; None if the sandbox never ends, or pauses at its end."""
        # Only a manager can pause a sandbox, so a sandbox that is to be paused waits for a manager.
        return None if self.never_ends or self.pause_at_end else seconds


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume at a path in a sandbox. ``name`` is the volume's name at the time of the mount request."""

    volume_id: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class NewSandbox:
    """A request to create a sandbox."""

    template: Template
    owner: str  # the ID of an API key
    lifetime: Lifetime
    secure: bool = True  # envd and the code interpreter ask for an access token
    metadata: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    quota: Quota = UNLIMITED  # of the owner
    files: Path | None = None  # the sandbox starts with a copy of this file tree; None: with a new file tree
    volume_mounts: tuple[VolumeMount, ...] = ()
    rules: EgressRules = field(default_factory=EgressRules)  # the template may narrow these rules
    public: bool = True  # its ports are open to everybody; False: requests need a token of the sandbox


@dataclass(slots=True, eq=False)
class Sandbox:
    """A sandbox of this manager. Times are in UTC."""

    id: str
    owner: str  # the ID of an API key
    template: Template
    process: SandboxProcess
    metadata: Mapping[str, str]
    access_token: str | None
    started_at: datetime
    end_at: datetime | None  # None: never; of a paused sandbox that has an end time, the moment of the pause
    lifetime: Lifetime
    rules: EgressRules
    traffic_token: str | None  # needed by requests to every port except envd's; None: no such token is needed
    volume_mounts: tuple[VolumeMount, ...] = ()
    state: State = State.STARTING
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    kept_until: datetime | None = None  # when a paused sandbox is ended; None: never
    keeps_memory: bool = True  # whether a pause, begun or done, keeps the processes
    pauses: int = 0  # how many pauses this manager has done
    stopped_before: tuple[int, ...] = ()  # IDs of processes that were stopped before a pause stopped all
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by the operation that changes the sandbox
    operations: set[asyncio.Task[Any]] = field(default_factory=set)  # tasks that hold the lock or wait for it

    @property
    def protected(self) -> bool:
        return self.metadata.get(PROTECT_KEY) == "true"

    @property
    def deadline(self) -> datetime | None:
        """Return the end time of a running sandbox, or the time when a paused sandbox is ended; None: there is none."""
        return {State.RUNNING: self.end_at, State.PAUSED: self.kept_until}.get(self.state)

    @property
    def use(self) -> Use | None:
        """Return the part of the owner's quota that the sandbox uses; None: the sandbox is ending and uses nothing."""
        return None if self.state.ending else self.template.use(running=not self.state.shown_as_paused)

    def keep_for(self, seconds: float | None) -> None:
        """Record that the sandbox is paused from now on, to be ended after ``seconds``; None or infinity: never."""
        self.pauses += 1
        self.end_at = None if self.lifetime.never_ends else now()
        self.kept_until = None if seconds is None or seconds == math.inf else now() + timedelta(seconds=seconds)

    def move(self, event: Event) -> None:
        self.state = next_state(self.state, event)


def environment(sandbox_id: str, template: Template, variables: Mapping[str, str]) -> dict[str, str]:
    """Return a sandbox's environment: the template's variables, then ``variables``, then E2B's; later values win."""
    own = {MARK_VARIABLE: "true", SANDBOX_ID_VARIABLE: sandbox_id, TEMPLATE_VARIABLE: template.name}
    return {**template.variables, **variables, **own}


def new_sandbox_id() -> str:
    """Return a random ID in E2B's form, which fits EMBEDDED_ID. Nobody can guess its 103 bits."""
    return "i" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def now() -> datetime:
    """Return the present time in UTC."""
    return datetime.now(UTC)


def seconds_until(moment: datetime | None) -> float | None:
    """Return the seconds until ``moment``: 0 if the moment has passed, None if ``moment`` is None."""
    return None if moment is None else max((moment - now()).total_seconds(), 0.0)
