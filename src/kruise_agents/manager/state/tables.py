"""The tables of the state file: the statements that create the tables, and a class for the rows of each table.

Times are seconds since the epoch. An ``owner`` is the ID of the API key to which the thing in the row belongs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        uid TEXT NOT NULL,
        owner TEXT NOT NULL,
        runtime TEXT NOT NULL,
        template TEXT NOT NULL,
        metadata TEXT NOT NULL,
        lifetime TEXT NOT NULL,
        secure INTEGER NOT NULL,
        state TEXT NOT NULL,
        started_at REAL NOT NULL,
        end_at REAL,
        kept_until REAL,
        keeps_memory INTEGER NOT NULL,
        pid INTEGER,
        pid_started INTEGER,
        boot TEXT,
        asleep TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE snapshots (
        owner TEXT NOT NULL,
        id TEXT NOT NULL,
        folder TEXT NOT NULL,
        name TEXT,
        template TEXT NOT NULL,
        sandbox TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        PRIMARY KEY (owner, id)
    ) STRICT;
    """,
    "ALTER TABLE sandboxes ADD COLUMN network TEXT NOT NULL DEFAULT '{}';",
    """
    CREATE TABLE api_keys (
        id TEXT PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        name TEXT NOT NULL,
        team TEXT NOT NULL,
        created_at REAL NOT NULL,
        created_by TEXT NOT NULL,
        last_used REAL,
        quota TEXT NOT NULL
    ) STRICT;
    UPDATE sandboxes SET owner = '550e8400-e29b-41d4-a716-446655440000' WHERE owner = '';
    UPDATE snapshots SET owner = '550e8400-e29b-41d4-a716-446655440000' WHERE owner = '';
    """,
    """
    CREATE TABLE volumes (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        created_at REAL NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
    ALTER TABLE sandboxes ADD COLUMN volume_mounts TEXT NOT NULL DEFAULT '[]';
    """,
    """
    CREATE TABLE creates (
        key BLOB PRIMARY KEY,
        body BLOB NOT NULL,
        sandbox TEXT NOT NULL,
        until REAL NOT NULL
    ) STRICT;
    CREATE INDEX creates_by_until ON creates (until);
    """,
    """
    CREATE TABLE secrets (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        sealed BLOB NOT NULL,
        metadata TEXT NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        UNIQUE (owner, name)
    ) STRICT;
    """,
)
"""Each step turns one version of the schema into the next. A step that was released must never change."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table :attr:`TABLE`; its fields are the columns."""

    TABLE: ClassVar[str]
    DURABLE: ClassVar[bool] = True
    """True if a change must be on the disk before a client is told of it."""

    @property
    def durable(self) -> bool:
        return self.DURABLE


@dataclass(frozen=True, slots=True)
class SandboxRow(Row):
    """A sandbox. Only a pause is durable: a running sandbox ends with the machine."""

    TABLE = "sandboxes"
    DURABLE = False
    id: str
    uid: str
    owner: str
    runtime: str
    template: str  # JSON: the template at the time of the create call
    metadata: str  # JSON
    lifetime: str  # JSON
    secure: int
    state: str
    started_at: float
    end_at: float | None
    kept_until: float | None  # when a paused sandbox is ended
    keeps_memory: int  # whether a pause, begun or done, keeps the processes
    pid: int | None
    pid_started: int | None  # in clock ticks since the boot
    boot: str | None
    asleep: str  # JSON: IDs of processes that were stopped before a pause stopped all
    network: str  # JSON: the ranges that the sandbox may reach outside, and whether its ports are public
    volume_mounts: str = "[]"  # JSON

    @property
    def durable(self) -> bool:
        return self.state == "paused"


@dataclass(frozen=True, slots=True)
class SnapshotRow(Row):
    """A snapshot."""

    TABLE = "snapshots"
    owner: str
    id: str  # name:tag, or the name of the folder if the snapshot has no name
    folder: str
    name: str | None
    template: str  # JSON: the sandbox's template
    sandbox: str
    created_at: float
    expires_at: float | None

    def is_over(self, moment: float) -> bool:
        # A snapshot cannot end before it was made. Such a record is damaged, or the clock was set, so files are kept.
        return self.expires_at is not None and self.created_at <= self.expires_at <= moment


@dataclass(frozen=True, slots=True)
class ApiKeyRow(Row):
    """An API key that was made over the API. The key itself is not stored."""

    TABLE = "api_keys"
    id: str
    digest: bytes  # SHA-256 of the raw key
    name: str
    team: str
    created_at: float
    created_by: str  # the ID of another key
    last_used: float | None
    quota: str  # JSON


@dataclass(frozen=True, slots=True)
class VolumeRow(Row):
    """A volume."""

    TABLE = "volumes"
    id: str
    owner: str
    name: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CreateRow(Row):
    """A create call that came with an idempotency key."""

    TABLE = "creates"
    DURABLE = False
    key: bytes  # digest of the idempotency key and its owner
    body: bytes  # digest of the request's body
    sandbox: str  # the ID of the created sandbox
    until: float  # when the row may be deleted


@dataclass(frozen=True, slots=True)
class SecretRow(Row):
    """A secret."""

    TABLE = "secrets"
    id: str
    owner: str
    name: str
    version: int  # of the value, from 1
    sealed: bytes  # the encrypted value
    metadata: str  # JSON
    created_at: float
    updated_at: float
