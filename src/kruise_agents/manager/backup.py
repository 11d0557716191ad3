"""The backup of a state folder, even while a manager uses the folder, and the way back.

usage: python -m kruise_agents.manager.backup <state folder> <new folder>

The commands ``kruise-agents backup`` and ``kruise-agents restore`` do the same with the usual exit codes.

Exit codes: 0 everything was copied, 1 nothing that a manager can use, 4 everything but for the files that are named.

The database is read before and after the files are copied. The copy keeps the rows of snapshots, volumes and paused
sandboxes that both readings have, because the folders of these rows were there during the whole copy. Other sandboxes
are left out: their files may change meanwhile, and processes cannot be copied. The copied rows have no process IDs;
otherwise a manager on the copy would take over the processes of the original.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from .runtime.bwrap import as_owner
from .runtime.bwrap.self_test import find_users
from .runtime.files.copying import FULL, Copier
from .runtime.files.identities import Identities
from .runtime.files.layout import folder_name
from .runtime.files.trees import IncompleteCopyError, remove_tree
from .state.database import Database
from .state.secret import StateSecret

_SECRETS = ("secret", "api-key", "traffic-token-key.pem", "tls")
INCOMPLETE = 4
"""The exit code of a backup that lacks the files that it names."""
_Rows = dict[str, dict[str, tuple[object, ...]]]
_WHOLE = {
    # A sandbox that was resumed and paused again has another start time.
    "sandboxes": "SELECT id, started_at FROM sandboxes WHERE state = 'paused'",
    "snapshots": "SELECT folder FROM snapshots",
    "volumes": "SELECT id FROM volumes",
}
_FORGET_OTHERS = {
    "sandboxes": "DELETE FROM sandboxes WHERE id NOT IN (SELECT value FROM json_each(?))",
    "snapshots": "DELETE FROM snapshots WHERE folder NOT IN (SELECT value FROM json_each(?))",
    "volumes": "DELETE FROM volumes WHERE id NOT IN (SELECT value FROM json_each(?))",
}


def back_up(state_dir: Path, target: Path) -> None:
    """Copy a state folder to the new folder ``target``. A manager may use the state folder meanwhile.

    Raises:
        ConfigurationError: The state folder has no database, or ``target`` exists.
        IncompleteCopyError: Some files could not be copied. A manager can start with the copy all the same.
        OSError, sqlite3.Error: ``target`` could not be written, or the database could not be read.
    """
    source = state_dir / "state.db"
    if not source.is_file():
        raise ConfigurationError(f"{state_dir} is no state folder: there is no {source}")
    try:
        target.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise ConfigurationError(f"{target} exists; name a folder that does not") from None
    with _opened(source, "ro") as database:
        before = _rows(database)
    missing = _copy(state_dir, target, _SECRETS)
    if missing:
        raise KruiseAgentsError("a backup needs these files: " + "; ".join(missing))
    failures = {}
    owners = _owners()
    for kind, rows in before.items():
        (target / kind).mkdir(mode=0o700)
        for row in rows:
            name = folder_name(row) if kind == "sandboxes" else row
            complaints = _copy_owned(state_dir / kind / name, target / kind / name, owners)
            failures[kind, row] = [f"{kind}/{name}: {complaint}" for complaint in complaints]
    kept = _copy_database(source, target / "state.db", before)
    if os.geteuid() == 0:
        owner = state_dir.stat()
        for path in (target, target / "state.db", *(target / kind for kind in _WHOLE)):
            os.chown(path, owner.st_uid, owner.st_gid)
    # Failures at folders that were removed meanwhile do not count: the copy has no rows for these folders.
    missing = [line for (kind, row), lines in failures.items() if row in kept[kind] for line in lines]
    if missing:
        raise IncompleteCopyError(missing)


def restore(backup: Path, state_dir: Path) -> None:
    """Make a state folder from a backup. It is copied and checked beside its place first, and then moved there.

    Raises:
        ConfigurationError: ``state_dir`` has content, ``backup`` is no backup, or a manager cannot use its files.
        IncompleteCopyError: Some files could not be copied. All else is in its place.
        OSError, sqlite3.Error: The folder could not be written.
    """
    if state_dir.exists() and (not state_dir.is_dir() or any(state_dir.iterdir())):
        raise ConfigurationError(
            f"{state_dir} is not empty; end its manager and move the folder away, or name another one with --state-dir"
        )
    draft = state_dir.absolute().with_name(f".{state_dir.absolute().name}.restoring")
    _discard(draft)  # of a restore that was killed
    incomplete = None
    try:
        try:
            back_up(backup, draft)
        except IncompleteCopyError as error:
            if error.errno in FULL:
                raise
            incomplete = error
        StateSecret.at(draft / "secret", may_be_new=False)
        Database(draft / "state.db", may_be_new=False).close()
        draft.rename(state_dir)
    finally:
        _discard(draft)
    if incomplete is not None:
        raise incomplete


def _discard(draft: Path) -> None:
    if not draft.exists():
        return
    owners = _owners()
    if owners is not None and owners.helpers:
        as_owner.remove(draft, owners)
    remove_tree(draft)


def _copy_database(source: Path, target: Path, before: _Rows) -> _Rows:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with _opened(source, "ro") as database, _opened(target, "rw") as copy:
        database.backup(copy)
        kept: _Rows = {}
        for kind, rows in _rows(copy).items():
            kept[kind] = {folder: row for folder, row in rows.items() if before[kind].get(folder) == row}
            copy.execute(_FORGET_OTHERS[kind], (json.dumps(list(kept[kind])),))
        copy.execute("UPDATE sandboxes SET pid = NULL, pid_started = NULL, boot = NULL, asleep = '[]'")
        copy.commit()
    return kept


def _rows(database: sqlite3.Connection) -> _Rows:
    return {kind: {row[0]: row for row in database.execute(statement)} for kind, statement in _WHOLE.items()}


@contextlib.contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as connection:
        yield connection


def _copy(source: Path, target: Path, names: Iterable[str] | None = None) -> list[str]:
    copier = Copier()
    copier.copy(source, target, names)
    return copier.complaints


def _owners() -> Identities | None:
    if os.geteuid() == 0:
        return None
    try:
        return find_users()[0]
    except RuntimeUnavailableError:
        return None


def _copy_owned(source: Path, target: Path, owners: Identities | None) -> list[str]:
    """Copy a folder with the owners of its files. Users other than root can set owners only in a user namespace."""
    target.mkdir(mode=0o700)
    try:
        if owners is None:
            return _copy(source, target)
        asyncio.run(as_owner.copy(source.absolute(), target.absolute(), owners))
    except OSError as error:  # such as a folder that code in a sandbox has moved or removed meanwhile
        if error.errno in FULL:
            raise
        return error.lines if isinstance(error, IncompleteCopyError) else [str(error)]
    return []


def main() -> None:
    """Copy the state folder that the command line names."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m kruise_agents.manager.backup <state folder> <new folder>")
    try:
        back_up(Path(sys.argv[1]), Path(sys.argv[2]))
    except IncompleteCopyError as error:
        if error.errno in FULL:
            sys.exit(f"backup: {error}")
        print("backup: everything was copied but for these files:", *error.lines, sep="\n  ", file=sys.stderr)
        sys.exit(INCOMPLETE)
    except (KruiseAgentsError, OSError, sqlite3.Error) as error:
        sys.exit(f"backup: {error}")


if __name__ == "__main__":
    main()
