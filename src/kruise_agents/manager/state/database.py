"""The state file of a manager: one SQLite database with all records that must survive the manager.

Each change of rows is one statement in its own transaction: after ``kill -9`` at any moment the database holds
everything that was written before. A power failure may lose the last writes. Most writes describe processes, which a
power failure ends too.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path
from typing import TypeVar

from ...errors import ConfigurationError, KruiseAgentsError
from .tables import MIGRATIONS, Row

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})

_Row = TypeVar("_Row", bound=Row)


class NoSpaceError(KruiseAgentsError):
    """The disk with the state folder is full, or a disk quota is used up."""


class Database:
    """The open state file. A missing file is made, readable for the current user only.

    Raises ConfigurationError for a file of a newer version, and for a file that SQLite cannot use. A write to a full
    disk raises :class:`NoSpaceError` and changes nothing.
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
                f"{path} cannot be used: {error}; restore the state folder from a backup, or choose another with "
                f"--state-dir"
            ) from error
        except BaseException:
            self._connection.close()
            raise

    def select(self, row_type: type[_Row], **where: object) -> list[_Row]:
        columns = ", ".join(field.name for field in fields(row_type))
        statement = f"SELECT {columns} FROM {row_type.TABLE}{_condition(where)}"  # noqa: S608 - our own names
        return [row_type(*row) for row in self._connection.execute(statement, tuple(where.values()))]

    def save(self, row: Row) -> None:
        """Write a row, in place of any row with the same primary key or the same values in unique columns."""
        columns = [field.name for field in fields(row)]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        self.write(f"INSERT OR REPLACE INTO {row.TABLE} ({names}) VALUES ({marks})", astuple(row))  # noqa: S608 - as above

    def delete(self, row_type: type[Row], **where: object) -> None:
        self.write(f"DELETE FROM {row_type.TABLE}{_condition(where)}", tuple(where.values()))  # noqa: S608 - as above

    def write(self, statement: str, values: tuple[object, ...]) -> None:
        with space_for(self._path):
            self._connection.execute(statement, values)

    def close(self) -> None:
        """Close the database. SQLite moves the write-ahead log into the file if nobody else has the file open."""
        self._connection.close()

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
    """Turn errors of a full disk into :class:`NoSpaceError`, in a ``with`` block that writes ``path``."""
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
    """Return the error message for a full disk that holds ``folder``."""
    return f"no space left on the disk of {folder}; remove something there, or end sandboxes"


def _condition(where: dict[str, object]) -> str:
    return f" WHERE {' AND '.join(f'{column} = ?' for column in where)}" if where else ""
