"""The state folder's file: versions, rights, full disks."""

from __future__ import annotations

import sqlite3
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.tables import MIGRATIONS, SandboxRow
from support.managers import available_runtime, serve_command

ROW = SandboxRow(
    id="i1",
    uid="u",
    owner="key",
    runtime="process",
    template='{"name": "base", "code_interpreter": false}',
    metadata='{"ключ": "é"}',
    lifetime="{}",
    secure=1,
    state="running",
    started_at=1.5,
    end_at=None,
    kept_until=None,
    keeps_memory=1,
    pid=7,
    pid_started=8,
    boot="b",
    asleep="[]",
    network="{}",
)


def test_what_is_saved_is_found_by_the_next_one(tmp_path: Path) -> None:
    store = Database(tmp_path / "state.db")
    store.save(ROW)
    store.save(replace(ROW, state="paused"))
    store.save(replace(ROW, id="i2"))
    store.delete(SandboxRow, id="i2")
    store.close()
    store = Database(tmp_path / "state.db")
    assert store.select(SandboxRow) == [replace(ROW, state="paused")]
    store.close()


def test_what_is_saved_survives_without_a_close(tmp_path: Path) -> None:
    first = Database(tmp_path / "state.db")
    first.save(ROW)
    second = Database(tmp_path / "state.db")
    assert second.select(SandboxRow) == [ROW]
    second.close()
    first.close()


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    store = Database(tmp_path / "state.db")
    store.save(ROW)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    store.close()
    assert modes == {0o600}


def test_every_older_version_is_migrated_with_what_is_in_it(tmp_path: Path) -> None:
    for version in range(len(MIGRATIONS)):
        path = tmp_path / f"{version}.db"
        with sqlite3.connect(path) as old:
            for script in MIGRATIONS[:version]:
                old.executescript(script)
            old.execute(f"PRAGMA user_version = {version}")
        old.close()
        store = Database(path)
        store.save(ROW)
        assert store.select(SandboxRow) == [ROW]
        store.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Database(tmp_path / "state.db")
    store.save(ROW)
    store.close()
    broken = (*MIGRATIONS, "CREATE TABLE half (x INTEGER); CREATE TABLE half (x INTEGER);")
    with monkeypatch.context() as patch:
        patch.setattr("kruise_agents.manager.state.database.MIGRATIONS", broken)
        with pytest.raises(ConfigurationError, match="table half already exists"):
            Database(tmp_path / "state.db")
    store = Database(tmp_path / "state.db")
    assert store.select(SandboxRow) == [ROW]
    store.close()


@pytest.mark.live
def test_a_state_folder_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    with sqlite3.connect(state / "state.db") as newer:
        newer.execute("CREATE TABLE marvels (x INTEGER)")
        newer.execute("PRAGMA user_version = 1000")
    newer.close()
    (state / "sandboxes" / "ifuture").mkdir(parents=True)
    command = serve_command("--port", "0", "--state-dir", str(state), "--runtime", available_runtime())
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "was written by a newer kruise-agents (state version 1000" in done.stderr
    assert (state / "sandboxes" / "ifuture").exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(ConfigurationError, match=r"state\.db cannot be used: file is not a database"):
        Database(tmp_path / "state.db")
