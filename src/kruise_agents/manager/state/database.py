"""The state file of a manager: one SQLite database with all records that must survive the manager.

Each change of rows is one statement in its own transaction: after ``kill -9`` at any moment the database holds
everything that was written before. A change is first in the write-ahead log. ``checkpoints.py`` moves it into the file
and onto the disk: durable rows before a client has the answer, all others in a quiet moment.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

from ...errors import ConfigurationError
from .reserve import NO_SPACE, NoSpaceError, Reserve
from .tables import MIGRATIONS, Row

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})

_Row = TypeVar("_Row", bound=Row)


class Database:
    """The open state file. A missing file is made, readable for the current user only, if the file ``may_be_new``.

    Raises ConfigurationError for a file of a newer version, for a file that SQLite cannot use or finds damaged, and
    for a missing or empty file that may not be new; a refused file is not changed. A write to a full disk raises
    :class:`NoSpaceError` and changes nothing. ``on_write`` is called after each write, with whether it is durable.
    """

    def __init__(self, path: Path, *, may_be_new: bool = True) -> None:
        self._path = path
        self.reserve = Reserve(path.with_name("reserve"))
        self.on_write: Callable[[bool], None] = lambda durable: None
        self._connection = self.reserve.spend(lambda: self._open(may_be_new=may_be_new))
        try:
            for row_type in Row.__subclasses__():
                self.select(row_type)  # SQLite's own check does not look at names of columns, nor at texts
        except (sqlite3.DatabaseError, UnicodeError) as error:
            self.close()
            raise self._unusable(str(error)) from error
        self.reserve.refill()

    def select(self, row_type: type[_Row], **where: object) -> list[_Row]:
        columns = ", ".join(field.name for field in fields(row_type))
        statement = f"SELECT {columns} FROM {row_type.TABLE}{_condition(where)}"  # noqa: S608 - our own names
        return [row_type(*row) for row in self._connection.execute(statement, tuple(where.values()))]

    def save(self, row: Row) -> None:
        """Write a row, in place of any row with the same primary key or the same values in unique columns.

        A row of a durable table is refused while the reserve is not whole: it would take space that deletes need.
        """
        if row.DURABLE and not self.reserve.refill():
            raise NoSpaceError(no_space(self._path.parent))
        self._save(row)

    def save_from_reserve(self, row: Row) -> None:
        """Write a row. On a full disk this takes space from the reserve."""
        self.reserve.spend(lambda: self._save(row))

    def delete(self, row_type: type[Row], **where: object) -> None:
        """Delete rows. On a full disk this takes space from the reserve."""
        statement = f"DELETE FROM {row_type.TABLE}{_condition(where)}"  # noqa: S608 - as above
        values = tuple(where.values())
        self.reserve.spend(lambda: self.write(statement, values, durable=row_type.DURABLE))

    def is_empty(self) -> bool:
        return not any(self.select(row_type) for row_type in Row.__subclasses__())

    def write(self, statement: str, values: tuple[object, ...], *, durable: bool = False) -> None:
        with space_for(self._path):
            self._connection.execute(statement, values)
        self.on_write(durable)

    @contextmanager
    def decoding(self, record: str) -> Iterator[None]:
        """Turn errors about the content of a ``record`` into the ConfigurationError of a damaged database."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._unusable(f"the record of {record} is damaged ({error!r})") from error

    def checkpoint(self) -> None:
        """Move all of the write-ahead log into the file, onto the disk, and empty the log. May be called in any thread.

        Raises sqlite3.Error if that fails. The log then keeps what it has.
        """
        with closing(sqlite3.connect(f"{self._path.as_uri()}?mode=rw", uri=True, isolation_level=None)) as connection:
            # This step does not hold up writers, and leaves little to do for the next one, which does.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # An emptied log cannot be damaged: SQLite would read a log that is not empty again after a crash. But on a
            # full disk the log keeps its space for the next deletes, because others would take what it gives back.
            mode = "TRUNCATE" if self.reserve.refill() else "RESTART"
            _, logged, moved = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            if moved < logged:  # for SQLite this is no error
                raise sqlite3.OperationalError("another program still reads an older state of the file")

    def close(self) -> None:
        """Close the database. SQLite moves the write-ahead log into the file if nobody else has the file open."""
        self._connection.close()

    def _save(self, row: Row) -> None:
        columns = [field.name for field in fields(row)]
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        statement = f"INSERT OR REPLACE INTO {row.TABLE} ({names}) VALUES ({marks})"  # noqa: S608 - as above
        values = tuple(getattr(row, column) for column in columns)  # not astuple, which copies every value deeply
        self.write(statement, values, durable=row.durable)

    def _open(self, *, may_be_new: bool) -> sqlite3.Connection:
        # SQLite deletes the log of an empty file, so look at the file before SQLite does.
        if not may_be_new and not _size(self._path):
            raise self._lost()
        with space_for(self._path):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, isolation_level=None)
            try:
                self._prepare(connection, may_be_new=may_be_new)
            except (sqlite3.DatabaseError, UnicodeError) as error:  # a damaged text can be part of an error of SQLite
                connection.close()
                if getattr(error, "sqlite_errorcode", None) in _FULL:
                    raise
                raise self._unusable(str(error)) from error
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, *, may_be_new: bool) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise ConfigurationError(
                f"{self._path} was written by a newer kruise-agents (state version {version}, this one knows "
                f"{len(MIGRATIONS)}); upgrade, or choose another state folder with --state-dir"
            )
        if version == 0 and not may_be_new:
            raise self._lost()
        (finding,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if finding != "ok":
            raise self._unusable(" ".join(finding.split()))
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        for number in range(version, len(MIGRATIONS)):
            connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )
        connection.execute("DELETE FROM sandboxes WHERE FALSE")  # fails if the header says that nobody may write
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        sync_folder(self._path.parent)

    def _unusable(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path} cannot be used: {reason}; restore the state folder from a backup, or choose another with "
            f"--state-dir"
        )

    def _lost(self) -> ConfigurationError:
        folder = self._path.parent
        return ConfigurationError(
            f"there are no records in {self._path}, but {folder} was used before; restore the state folder from a "
            f"backup, or move all of {folder} away to begin anew"
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
        if error.errno not in NO_SPACE:
            raise
        raise NoSpaceError(no_space(path.parent)) from error


def no_space(folder: Path) -> str:
    """Return the error message for a full disk that holds ``folder``."""
    return f"no space left on the disk of {folder}; remove something there, or end sandboxes"


def sync_folder(folder: Path) -> None:
    """Write the names of new files in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _condition(where: dict[str, object]) -> str:
    return f" WHERE {' AND '.join(f'{column} = ?' for column in where)}" if where else ""
