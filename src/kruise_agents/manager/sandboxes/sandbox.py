"""One sandbox as the manager knows it."""

from __future__ import annotations

import asyncio
import json
import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network

from ..accounts.quota import Use
from ..runtime import EgressRules, ProcessIdentity
from ..state.database import SandboxRow
from ..state.secret import StateSecret
from ..templates.model import Template
from ..traffic_tokens import PROTECT_KEY
from .lifecycle import Event, State, after
from .lifetime import Lifetime
from .program import SandboxProgram

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20
INTERNAL_VARIABLES = ("E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID")
"""What every process in a sandbox finds in its environment beside what the create call gave (E2B's names)."""


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A volume at a place in a sandbox. ``name`` is what the volume was called then."""

    volume_id: str
    name: str
    path: str


@dataclass(slots=True, eq=False)
class Sandbox:
    """The record of one sandbox. Times are in UTC."""

    id: str
    template: Template
    program: SandboxProgram
    metadata: Mapping[str, str]
    access_token: str | None
    started_at: datetime
    end_at: datetime | None
    """When its time is over; None: never. Of a paused one, when it was paused."""
    lifetime: Lifetime = field(default_factory=lambda: Lifetime(300))
    owner: str = ""
    """The id of the API key that made it."""
    rules: EgressRules = field(default_factory=EgressRules)
    """What it may reach outside."""
    traffic_token: str | None = None
    """What requests to its ports need, envd's own excepted; None: nothing."""
    state: State = State.STARTING
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    kept_until: datetime | None = None
    """When a paused one is ended; None: never."""
    keeps_memory: bool = True
    """Whether a pause, begun or done, keeps its processes."""
    asleep: tuple[int, ...] = ()
    """Processes that were stopped before a pause stopped all."""
    volume_mounts: tuple[VolumeMount, ...] = ()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one operation that changes it."""
    work: set[asyncio.Task[None]] = field(default_factory=set)
    """Operations that hold the lock or wait for it."""

    @property
    def protected(self) -> bool:
        """Whether its ports need a traffic access token."""
        return self.metadata.get(PROTECT_KEY) == "true"

    @property
    def deadline(self) -> datetime | None:
        """The moment at which something is to happen to it in its present state; None: nothing is."""
        return {State.RUNNING: self.end_at, State.PAUSED: self.kept_until}.get(self.state)

    @property
    def use(self) -> Use | None:
        """What it counts for in its owner's quota; None: it is ending."""
        return None if self.state.ending else self.template.use(running=not self.state.resting)

    def move(self, event: Event) -> None:
        """Go on to the state that follows.

        Raises:
            RefusedError: ``event`` cannot happen now; nothing is changed.
        """
        self.state = after(self.state, event)

    def row(self, runtime: str) -> SandboxRow:
        """What is written down of it."""
        process = self.program.identity
        return SandboxRow(
            id=self.id,
            uid=self.uid,
            owner=self.owner,
            runtime=runtime,
            template=self.template.to_json(),
            metadata=json.dumps(dict(self.metadata)),
            lifetime=json.dumps(asdict(self.lifetime)),
            secure=int(self.access_token is not None),
            state=str(self.state),
            started_at=self.started_at.timestamp(),
            end_at=_seconds(self.end_at),
            kept_until=_seconds(self.kept_until),
            keeps_memory=int(self.keeps_memory),
            pid=process.pid if process else None,
            pid_started=process.started if process else None,
            boot=process.boot if process else None,
            asleep=json.dumps(self.asleep),
            network=json.dumps(
                {
                    "allowed": _texts(self.rules.allowed),
                    "denied": _texts(self.rules.denied),
                    "public": self.traffic_token is None,
                }
            ),
            volume_mounts=json.dumps([asdict(mount) for mount in self.volume_mounts]),
        )


def from_row(row: SandboxRow, program: SandboxProgram, secret: StateSecret) -> Sandbox:
    """The sandbox that was written down."""
    return Sandbox(
        id=row.id,
        template=Template.from_json(row.template),
        program=program,
        metadata=json.loads(row.metadata),
        access_token=secret.access_token(row.id) if row.secure else None,
        started_at=datetime.fromtimestamp(row.started_at, UTC),
        end_at=_moment(row.end_at),
        lifetime=Lifetime(**json.loads(row.lifetime)),
        owner=row.owner,
        rules=_rules(row),
        traffic_token=None if json.loads(row.network).get("public", True) else secret.traffic_token(row.id),
        state=State(row.state),
        uid=row.uid,
        kept_until=_moment(row.kept_until),
        keeps_memory=bool(row.keeps_memory),
        asleep=tuple(json.loads(row.asleep)),
        volume_mounts=mounts_of(row),
    )


def mounts_of(row: SandboxRow) -> tuple[VolumeMount, ...]:
    """The volumes that a sandbox has mounted."""
    return tuple(VolumeMount(**mount) for mount in json.loads(row.volume_mounts))


def process_of(row: SandboxRow) -> ProcessIdentity | None:
    """The sandbox's process as it was written down, if it was."""
    if row.pid is None or row.pid_started is None or row.boot is None:
        return None
    return ProcessIdentity(row.pid, row.pid_started, row.boot)


def first_variables(sandbox_id: str, template: Template) -> dict[str, str]:
    """What every process in a sandbox finds in its environment before anybody has made it theirs."""
    return {**template.variables, **internal_variables(sandbox_id, template)}


def internal_variables(sandbox_id: str, template: Template) -> dict[str, str]:
    """The values of :data:`INTERNAL_VARIABLES`."""
    return dict(zip(INTERNAL_VARIABLES, ("true", sandbox_id, template.name), strict=True))


def new_sandbox_id() -> str:
    """An id in E2B's form: ``i`` and 20 of ``[a-z0-9]``, about 103 bits, so that it cannot be guessed."""
    return "i" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)


def seconds_until(moment: datetime | None) -> float | None:
    """How long it is to ``moment``, 0 when it has passed, None when it never comes."""
    return None if moment is None else max((moment - now()).total_seconds(), 0.0)


def _texts(networks: tuple[IPv4Network, ...]) -> list[str]:
    return [str(network) for network in networks]


def _rules(row: SandboxRow) -> EgressRules:
    facts = json.loads(row.network)
    allowed, denied = (tuple(map(IPv4Network, facts.get(name, ()))) for name in ("allowed", "denied"))
    return EgressRules(allowed, denied)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
