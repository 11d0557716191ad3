"""What must survive the manager, in one SQLite file.

Writes are single statements of a few hundred bytes, each its own transaction: after ``kill -9`` at any moment the file
holds all that was written before it. Losing the machine's power may lose the last ones, and with it go the processes
that they describe.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TypeVar

from ...errors import ConfigurationError, KruiseAgentsError

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
"""Each step makes the next version of the schema out of the one before; steps that were released never change."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})


class NoSpaceError(KruiseAgentsError):
    """The disk with the state folder is full."""


@dataclass(frozen=True, slots=True)
class SandboxRow:
    """One sandbox as it is written down. Times are seconds since the epoch."""

    id: str
    uid: str
    owner: str
    """The id of the API key that made it."""
    runtime: str
    template: str
    """The template as it was when the sandbox was made, in JSON."""
    metadata: str
    """JSON."""
    lifetime: str
    """JSON."""
    secure: int
    state: str
    started_at: float
    end_at: float | None
    kept_until: float | None
    """When a paused one is ended."""
    keeps_memory: int
    """Whether a pause, begun or done, keeps processes."""
    pid: int | None
    pid_started: int | None
    boot: str | None
    asleep: str
    """JSON: which processes were stopped before a pause stopped all."""
    network: str
    """JSON: what it may reach outside."""
    volume_mounts: str = "[]"
    """JSON."""


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One snapshot as it is written down. Times are seconds since the epoch."""

    owner: str
    """The id of the API key that made it."""
    id: str
    """What sandboxes are made from it by; ``name:tag`` of one that has a name."""
    folder: str
    name: str | None
    template: str
    """The template of the sandbox that it was made of, in JSON."""
    sandbox: str
    created_at: float
    expires_at: float | None

    def is_over(self, moment: float) -> bool:
        """Whether it was to be kept only until then."""
        return self.expires_at is not None and self.expires_at <= moment


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """One API key as it is written down; the key itself is not. Times are seconds since the epoch."""

    id: str
    digest: bytes
    """SHA-256 of the raw key."""
    name: str
    team: str
    created_at: float
    created_by: str
    """The id of the key that made it."""
    last_used: float | None
    quota: str
    """JSON."""


@dataclass(frozen=True, slots=True)
class VolumeRow:
    """One volume as it is written down. Times are seconds since the epoch."""

    id: str
    owner: str
    """The id of the API key that made it."""
    name: str
    created_at: float


@dataclass(frozen=True, slots=True)
class CreateRow:
    """One create that came with an idempotency key, as it is written down."""

    key: bytes
    """Digest of the key and of who used it."""
    body: bytes
    """Digest of what was asked for."""
    sandbox: str
    """The id of what was made."""
    until: float
    """When it may be forgotten, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class SecretRow:
    """One secret as it is written down. Times are seconds since the epoch."""

    id: str
    owner: str
    """The id of the API key that made it."""
    name: str
    version: int
    """From 1 on, for each value."""
    sealed: bytes
    """Its value, encrypted."""
    metadata: str
    """JSON."""
    created_at: float
    updated_at: float


_Row = TypeVar("_Row", SandboxRow, SnapshotRow, ApiKeyRow, VolumeRow, CreateRow, SecretRow)
_TABLES: dict[type, str] = {
    SandboxRow: "sandboxes",
    SnapshotRow: "snapshots",
    ApiKeyRow: "api_keys",
    VolumeRow: "volumes",
    CreateRow: "creates",
    SecretRow: "secrets",
}


class Database:
    """The open file.

    Parameters:
        path: made when it is not there; nobody else can read it.

    Raises:
        ConfigurationError: it was written by a newer version, or is no such file.
        NoSpaceError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            with space_for(path):
                self._connection.execute("PRAGMA foreign_keys = ON")
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._migrate()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ConfigurationError(
                f"{path} cannot be used: {error}; put it away, or choose another state folder with --state-dir"
            ) from error
        except BaseException:
            self._connection.close()
            raise

    def sandboxes(self) -> list[SandboxRow]:
        """Every sandbox."""
        return self._all(SandboxRow)

    def save_sandbox(self, row: SandboxRow) -> None:
        """Write a sandbox down, new or changed.

        Raises:
            NoSpaceError: the disk is full; what was written before stands.
        """
        self._save(row)

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))

    def snapshots(self) -> list[SnapshotRow]:
        """Every snapshot."""
        return self._all(SnapshotRow)

    def save_snapshot(self, row: SnapshotRow) -> SnapshotRow | None:
        """Write a snapshot down. Returns the one of the same id that it replaces.

        Raises:
            NoSpaceError: as above.
        """
        same = [one for one in self.snapshots() if (one.owner, one.id) == (row.owner, row.id)]
        self._save(row)
        return same[0] if same else None

    def remove_snapshot(self, row: SnapshotRow) -> None:
        """Forget a snapshot.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM snapshots WHERE owner = ? AND id = ?", (row.owner, row.id))

    def api_keys(self) -> list[ApiKeyRow]:
        """Every API key that was made."""
        return self._all(ApiKeyRow)

    def save_api_key(self, row: ApiKeyRow) -> None:
        """Write an API key down.

        Raises:
            NoSpaceError: as above.
        """
        self._save(row)

    def note_use_of_api_key(self, key_id: str, moment: float) -> None:
        """Write down when an API key was last used.

        Raises:
            NoSpaceError: as above.
        """
        self._write("UPDATE api_keys SET last_used = ? WHERE id = ?", (moment, key_id))

    def remove_api_key(self, key_id: str) -> None:
        """Forget an API key.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM api_keys WHERE id = ?", (key_id,))

    def volumes(self) -> list[VolumeRow]:
        """Every volume."""
        return self._all(VolumeRow)

    def save_volume(self, row: VolumeRow) -> None:
        """Write a volume down, new or changed.

        Raises:
            NoSpaceError: as above.
        """
        self._save(row)

    def remove_volume(self, volume_id: str) -> None:
        """Forget a volume.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM volumes WHERE id = ?", (volume_id,))

    def secrets(self) -> list[SecretRow]:
        """Every secret."""
        return self._all(SecretRow)

    def save_secret(self, row: SecretRow) -> None:
        """Write a secret down, new or changed.

        Raises:
            NoSpaceError: as above.
        """
        self._save(row)

    def remove_secret(self, secret_id: str) -> None:
        """Forget a secret.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM secrets WHERE id = ?", (secret_id,))

    def create(self, key: bytes) -> CreateRow | None:
        """The create with that digest of an idempotency key."""
        found = self._connection.execute("SELECT key, body, sandbox, until FROM creates WHERE key = ?", (key,))
        return next((CreateRow(*row) for row in found), None)

    def save_create(self, row: CreateRow) -> None:
        """Write a create with an idempotency key down.

        Raises:
            NoSpaceError: as above.
        """
        self._save(row)

    def remove_create_of(self, sandbox_id: str) -> None:
        """Forget the create of a sandbox that was not made after all.

        Raises:
            NoSpaceError: as above.
        """
        self._write("DELETE FROM creates WHERE sandbox = ?", (sandbox_id,))

    def remove_old_creates(self, moment: float, most: int) -> None:
        """Forget the creates whose time is over, and the oldest of more than ``most``.

        Raises:
            NoSpaceError: as above.
        """
        beyond = "SELECT key FROM creates ORDER BY until DESC LIMIT -1 OFFSET ?"
        self._write(f"DELETE FROM creates WHERE until <= ? OR key IN ({beyond})", (moment, most))  # noqa: S608 - ours

    def close(self) -> None:
        """Write everything into the one file and close it."""
        self._connection.close()

    def _all(self, row_type: type[_Row]) -> list[_Row]:
        columns = ", ".join(field.name for field in fields(row_type))
        found = self._connection.execute(f"SELECT {columns} FROM {_TABLES[row_type]}")  # noqa: S608 - our own names
        return [row_type(*row) for row in found]

    def _save(self, row: SandboxRow | SnapshotRow | ApiKeyRow | VolumeRow | CreateRow | SecretRow) -> None:
        columns = [field.name for field in fields(row)]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        table = _TABLES[type(row)]
        self._write(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", astuple(row))  # noqa: S608 - as above

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with space_for(self._path):
            self._connection.execute(statement, values)

    def _migrate(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise ConfigurationError(
                f"{self._path} was written by a newer kruise-agents (state version {version}, this one knows "
                f"{len(MIGRATIONS)}); upgrade, or choose another state folder with --state-dir"
            )
        for number in range(version, len(MIGRATIONS)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )


@contextmanager
def space_for(path: Path) -> Iterator[None]:
    """Writes below ``path``: a full disk is a :class:`NoSpaceError`, whoever noticed it."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in _FULL:
            raise
        raise NoSpaceError(no_space(path.parent)) from error
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise NoSpaceError(no_space(path.parent)) from error


def no_space(folder: Path) -> str:
    """What is said of a full disk."""
    return f"no space left on the disk of {folder}; remove something there, or end sandboxes"
