"""The database rows of sandboxes, from which the next manager learns which sandboxes there are."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from datetime import UTC, datetime
from ipaddress import IPv4Network

from ..runtime import EgressRules, ProcessIdentity
from ..state.database import Database
from ..state.reserve import NoSpaceError
from ..state.secret import StateSecret
from ..state.tables import SandboxRow
from ..templates.model import Template
from .lifecycle import State
from .process import SandboxProcess
from .sandbox import Lifetime, Sandbox, VolumeMount

logger = logging.getLogger(__name__)


class Records:
    """The rows of one manager's sandboxes."""

    def __init__(self, store: Database, runtime: str) -> None:
        self._store = store
        self._runtime = runtime
        self._unsaved: set[Sandbox] = set()

    def save(self, sandbox: Sandbox) -> None:
        """Write the row. Call this before a step that relies on the row. Raises NoSpaceError if the disk is full.

        After a successful write, also try to write the rows that :meth:`note` could not write to a full disk.
        """
        self._store.save(to_row(sandbox, self._runtime))
        self._unsaved.discard(sandbox)
        for other in list(self._unsaved):
            self._unsaved.discard(other)
            self.note(other)

    def save_as(self, sandbox: Sandbox, state: State) -> None:
        """Write the row as if the sandbox were in ``state``, in case this manager ends before the next write."""
        self._store.save(replace(to_row(sandbox, self._runtime), state=str(state)))

    def note(self, sandbox: Sandbox) -> None:
        """Write the row after a change that has happened. If the disk is full, a later :meth:`save` writes the row."""
        try:
            self.save(sandbox)
        except NoSpaceError:
            logger.warning("sandbox %s changed, and the disk is too full to write it down", sandbox.id)
            self._unsaved.add(sandbox)

    def remove(self, sandbox: Sandbox) -> None:
        self._unsaved.discard(sandbox)
        try:
            self._store.delete(SandboxRow, id=sandbox.id)
        except NoSpaceError:
            logger.warning("sandbox %s is gone; the next start of the manager takes it off the list", sandbox.id)


def to_row(sandbox: Sandbox, runtime: str) -> SandboxRow:
    """Return the row of a sandbox."""
    identity = sandbox.process.identity
    network = {
        "allowed": [str(network) for network in sandbox.rules.allowed],
        "denied": [str(network) for network in sandbox.rules.denied],
        "names": sandbox.rules.names,
        "public": sandbox.traffic_token is None,
    }
    return SandboxRow(
        id=sandbox.id,
        uid=sandbox.uid,
        owner=sandbox.owner,
        runtime=runtime,
        template=sandbox.template.to_json(),
        metadata=json.dumps(dict(sandbox.metadata)),
        lifetime=json.dumps(asdict(sandbox.lifetime)),
        secure=int(sandbox.access_token is not None),
        state=str(sandbox.state),
        started_at=sandbox.started_at.timestamp(),
        end_at=_seconds(sandbox.end_at),
        kept_until=_seconds(sandbox.kept_until),
        keeps_memory=int(sandbox.keeps_memory),
        pid=identity.pid if identity else None,
        pid_started=identity.started if identity else None,
        boot=identity.boot if identity else None,
        asleep=json.dumps(sandbox.stopped_before),
        network=json.dumps(network),
        volume_mounts=json.dumps([asdict(mount) for mount in sandbox.volume_mounts]),
    )


def from_row(row: SandboxRow, process: SandboxProcess, secret: StateSecret) -> Sandbox:
    """Return the sandbox of a row. The sandbox's tokens are derived from the secret again."""
    network = json.loads(row.network)
    allowed, denied = (tuple(map(IPv4Network, network.get(name, ()))) for name in ("allowed", "denied"))
    return Sandbox(
        id=row.id,
        owner=row.owner,
        template=Template.from_json(row.template),
        process=process,
        metadata=json.loads(row.metadata),
        access_token=secret.access_token(row.id) if row.secure else None,
        started_at=datetime.fromtimestamp(row.started_at, UTC),
        end_at=_moment(row.end_at),
        lifetime=Lifetime(**json.loads(row.lifetime)),
        rules=EgressRules(allowed, denied, tuple(network.get("names", ()))),
        traffic_token=None if network.get("public", True) else secret.traffic_token(row.id),
        volume_mounts=mounts_of(row),
        state=State(row.state),
        uid=row.uid,
        kept_until=_moment(row.kept_until) if (row.kept_until or 0.0) >= row.started_at else None,  # as in is_over()
        keeps_memory=bool(row.keeps_memory),
        stopped_before=tuple(json.loads(row.asleep)),
    )


def mounts_of(row: SandboxRow) -> tuple[VolumeMount, ...]:
    """Return the volumes that the sandbox of a row has mounted."""
    return tuple(VolumeMount(**mount) for mount in json.loads(row.volume_mounts))


def identity_of(row: SandboxRow) -> ProcessIdentity | None:
    """Return the identity of the process that a row names; None if there was no process."""
    if row.pid is None or row.pid_started is None or row.boot is None:
        return None
    return ProcessIdentity(row.pid, row.pid_started, row.boot)


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
