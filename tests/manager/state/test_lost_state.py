"""Missing, older and damaged state: what a manager refuses, and what it keeps."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.runtime import ProcessRuntime
from kruise_agents.manager.runtime.files.layout import folder_name
from kruise_agents.manager.state.checkpoints import Checkpoints
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.folders import clean_up, names_set_aside, put_back, set_aside
from kruise_agents.manager.state.tables import ApiKeyRow, VolumeRow
from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, available_runtime, running_manager, serve_command, wait_for

KEY = ApiKeyRow("id", b"digest", "name", "team", 1.0, "admin", None, "{}")
VOLUME = VolumeRow("v1", "owner", "name", 1.0)


@dataclass
class Precious:
    """The things that a client was told of, in a state folder that no manager uses any more."""

    folder: Path
    paused: str
    snapshot: str
    volume: str
    key: str

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def copy(self, folder: Path) -> Precious:
        folder.mkdir()
        subprocess.run(["cp", "-a", str(self.state_dir), str(folder / "state")], check=True)
        return Precious(folder, self.paused, self.snapshot, self.volume, self.key)

    def files(self) -> set[str]:
        places = [f"sandboxes/{folder_name(self.paused)}/rootfs/home/user", f"snapshots/{self.snapshot}/home/user"]
        return {
            f"{path.parent.relative_to(self.state_dir)}: {path.read_text()}"
            for place in (*places, f"volumes/{self.volume}")
            for path in self.state_dir.glob(f"**/{place}/mine.txt")
        }

    def refusal(self) -> str:
        command = serve_command("--port", "0", "--state-dir", str(self.state_dir), "--runtime", available_runtime())
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        return done.stderr

    def assert_all_there(self) -> None:
        with running_manager(self.folder, "--keep") as manager, manager.api() as api:
            assert api.get(f"/sandboxes/{self.paused}").json()["state"] == "paused"
            assert self.snapshot in [one["snapshotID"] for one in api.get("/snapshots").json()]
            assert [one["volumeID"] for one in api.get("/volumes").json()] == [self.volume]
            assert api.get("/v2/sandboxes", headers={"X-API-Key": self.key}).status_code == 200
            assert not (self.state_dir / "lost").exists()


def make_precious(manager: RunningManager, folder: Path) -> Precious:
    with patch_e2b(False), manager.api() as api:
        sandbox = Sandbox.create("base", domain=manager.domain, api_key=manager.api_key)
        sandbox.files.write("mine.txt", "files")
        volume = api.post("/volumes", json={"name": "mine"}).json()["volumeID"]
        (manager.state_dir / "volumes" / volume / "mine.txt").write_text("files")
        snapshot = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).json()["snapshotID"]
        key = api.post("/api-keys", json={"name": "mine", "teamName": "red"}).json()["key"]
        sandbox.pause(keep_memory=False)
    return Precious(folder, sandbox.sandbox_id, snapshot, volume, key)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Precious:
    """The state folder of a manager that was killed as soon as all was acknowledged."""
    folder = tmp_path_factory.mktemp("killed")
    with running_manager(folder) as manager:
        shutil.copy(manager.state_dir / "state.db", folder / "older.db")
        precious = make_precious(manager, folder)
        manager.process.kill()
        manager.process.wait()
    return precious


@pytest.fixture
def precious(killed: Precious, tmp_path: Path) -> Precious:
    return killed.copy(tmp_path / "copy")


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.live
@pytest.mark.parametrize("damage", [remove, empty, cut, flip])
def test_a_damaged_log_loses_nothing_that_was_acknowledged(damage: Callable[[Path], None], precious: Precious) -> None:
    damage(precious.state_dir / "state.db-wal")
    precious.assert_all_there()


@pytest.mark.live
@pytest.mark.parametrize("damage", [remove, empty])
def test_a_missing_database_is_refused_until_it_is_back(damage: Callable[[Path], None], precious: Precious) -> None:
    database, aside = precious.state_dir / "state.db", precious.folder / "aside.db"
    files = precious.files()
    assert len(files) == 3
    shutil.copy(database, aside)
    damage(database)
    for _ in range(2):
        said = precious.refusal()
        assert f"there are no records in {database}, but" in said
        assert f"move all of {precious.state_dir} away to begin anew" in said
        assert precious.files() == files
    shutil.copy(aside, database)
    precious.assert_all_there()


@pytest.mark.live
def test_a_missing_database_is_refused_even_if_nothing_but_folders_is_left(precious: Precious) -> None:
    for name in ("state.db", "state.db-wal", "state.db-shm", "secret"):
        remove(precious.state_dir / name)
    files = precious.files()
    assert "there are no records in " in precious.refusal()
    assert precious.files() == files


@pytest.mark.live
def test_what_an_older_database_does_not_know_is_moved_to_lost_and_named(killed: Precious, precious: Precious) -> None:
    shutil.copy(killed.folder / "older.db", precious.state_dir / "state.db")
    remove(precious.state_dir / "state.db-wal")
    files = precious.files()
    with running_manager(precious.folder) as manager, manager.api() as api:
        assert api.get("/volumes").json() == []
        assert {f"lost/{file}" for file in files} == precious.files()
        said = manager.log.read_text()
        for name in (folder_name(precious.paused), precious.snapshot, precious.volume):
            assert f"/{name}: look whether it is still needed" in said
    with running_manager(precious.folder) as manager:
        assert {f"lost/{file}" for file in files} == precious.files()
        assert "look whether it is still needed" not in manager.log.read_text()


@pytest.mark.needs("namespaces")  # the process runtime mounts no volumes
def test_a_volume_of_another_user_is_moved_to_lost_too(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager, manager.api() as api, patch_e2b(False):
        volume = api.post("/volumes", json={"name": "mine"}).json()["volumeID"]
        mounts = {"/mnt/v": "mine"}
        with Sandbox.create("base", domain=manager.domain, api_key=manager.api_key, volume_mounts=mounts) as sandbox:
            sandbox.commands.run("mkdir /mnt/v/folder && echo kept > /mnt/v/folder/mine.txt")
    with opened(tmp_path / "state" / "state.db") as store:
        store.delete(VolumeRow, id=volume)
    with running_manager(tmp_path) as manager:
        assert (manager.state_dir / "lost" / "volumes" / volume / "folder" / "mine.txt").read_text() == "kept\n"
        assert f"/{volume}: look whether it is still needed" in manager.log.read_text()


@pytest.mark.live
@pytest.mark.parametrize(
    ("damage", "text"), [(remove, "secret is missing, and"), (empty, "has 0 bytes"), (cut, "has 16 bytes")]
)
def test_a_missing_or_short_secret_is_refused(damage: Callable[[Path], None], text: str, precious: Precious) -> None:
    damage(precious.state_dir / "secret")
    assert text in precious.refusal()
    assert len(precious.files()) == 3


@pytest.mark.live
def test_files_that_are_gone_are_named(precious: Precious) -> None:
    for path in (
        f"sandboxes/{folder_name(precious.paused)}",
        f"snapshots/{precious.snapshot}",
        f"volumes/{precious.volume}",
    ):
        shutil.rmtree(precious.state_dir / path)
    with running_manager(precious.folder) as manager, manager.api() as api:
        assert api.get(f"/sandboxes/{precious.paused}").status_code == 404
        assert api.get("/snapshots").json() == []
        assert [one["volumeID"] for one in api.get("/volumes").json()] == [precious.volume]
        said = manager.log.read_text()
        for line in ("sandbox {0.paused} was paused and is gone", "snapshot {0.snapshot} is gone", "volume {0.volume}"):
            assert line.format(precious) in said


@pytest.mark.live
def test_a_killed_manager_leaves_nothing_to_look_at(tmp_path: Path) -> None:
    with running_manager(tmp_path, pool=1) as manager:
        sandboxes = manager.state_dir / "sandboxes"
        wait_for(lambda: any(path.is_dir() for path in sandboxes.iterdir()), 30, "a warm sandbox")
        manager.process.kill()
        manager.process.wait()
    assert any(sandboxes.iterdir())
    with running_manager(tmp_path, "--keep") as manager:
        assert "look whether" not in manager.log.read_text()
        assert list(sandboxes.iterdir()) == []
    assert not (tmp_path / "state" / "lost").exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(Database(path)) as store:
        for number in range(200):
            store.save(VolumeRow(f"v{number}", "owner", f"name {number}", 1.0))
    content = bytearray(path.read_bytes())
    page = next(at for at in range(4096, len(content), 4096) if b"name 100" in content[at : at + 4096])
    content[page + 8 : page + 64] = b"\x00" * 56
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"state\.db cannot be used: "):
        Database(path)
    assert path.read_bytes() == content


def test_a_file_that_can_only_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Database(path).close()
    content = bytearray(path.read_bytes())
    content[18] = 3  # the version of SQLite's format that is needed to write
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="readonly database; restore the state folder from a backup"):
        Database(path)
    assert path.read_bytes() == content


@pytest.mark.live
def test_a_damaged_record_is_refused_before_anything_is_changed(precious: Precious) -> None:
    files = precious.files()
    with contextlib.closing(sqlite3.connect(precious.state_dir / "state.db")) as connection:
        connection.execute("UPDATE sandboxes SET lifetime = replace(lifetime, 'seconds', 'sekonds')")
        connection.commit()
    assert f"the record of sandbox {precious.paused} is damaged (TypeError(" in precious.refusal()
    with contextlib.closing(sqlite3.connect(precious.state_dir / "state.db")) as connection:
        connection.execute("UPDATE api_keys SET quota = '[]'")
        connection.commit()
    assert "state.db cannot be used: the record of API key " in precious.refusal()
    assert precious.files() == files


@pytest.mark.live
@pytest.mark.parametrize(
    "damage",
    ["UPDATE snapshots SET folder = '../volumes', created_at = 0, expires_at = 1", "UPDATE volumes SET id = '..'"],
)
def test_a_record_that_names_another_folder_is_refused(damage: str, precious: Precious) -> None:
    files = precious.files()
    with contextlib.closing(sqlite3.connect(precious.state_dir / "state.db")) as connection:
        connection.execute(damage)
        connection.commit()
    assert "is damaged (ValueError(\"'.." in precious.refusal()
    assert precious.files() == files


@pytest.mark.parametrize("damage", ["ALTER TABLE volumes RENAME COLUMN name TO game", "DROP TABLE volumes"])
def test_a_database_without_a_table_or_column_is_refused(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Database(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    with pytest.raises(ConfigurationError, match=r"state\.db cannot be used: no such (column|table)"):
        Database(path)


def test_a_database_without_records_is_refused_where_it_cannot_be_new(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE marvels (x INTEGER)")
        other.commit()
    content = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"there are no records in .*state\.db, but"):
        Database(path, may_be_new=False)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == ["state.db"]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Database]:
    with contextlib.closing(Database(path)) as store:
        yield store


def in_the_file(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Return rows of a database as if its write-ahead log were lost."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        return connection.execute(statement).fetchall()


def test_durable_rows_are_in_the_file_when_they_are_settled(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def scene() -> None:
        with opened(path) as store:
            checkpoints = Checkpoints(store)
            store.save(KEY)
            store.save(VOLUME)
            await checkpoints.settle()
            assert in_the_file(path, "SELECT id FROM api_keys UNION SELECT id FROM volumes") == [("id",), ("v1",)]
            assert path.with_name("state.db-wal").stat().st_size == 0
            store.delete(ApiKeyRow, id="id")
            await asyncio.gather(checkpoints.settle(), checkpoints.settle())
            assert in_the_file(path, "SELECT id FROM api_keys") == []
            await checkpoints.close()

    asyncio.run(scene())


def test_other_rows_are_in_the_file_after_a_quiet_moment(tmp_path: Path) -> None:
    path = tmp_path / "state.db"

    async def scene() -> None:
        with opened(path) as store:
            store.save(KEY)
            checkpoints = Checkpoints(store)
            store.write("UPDATE api_keys SET last_used = ?", (7.0,))
            async with asyncio.timeout(30):
                while in_the_file(path, "SELECT last_used FROM api_keys") != [(7.0,)]:
                    await asyncio.sleep(0.05)
            await checkpoints.close()

    asyncio.run(scene())


def test_a_checkpoint_that_fails_is_logged_and_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async def scene() -> None:
        with opened(tmp_path / "state.db") as store:
            monkeypatch.setattr(store, "checkpoint", fail)
            checkpoints = Checkpoints(store)
            store.save(KEY)
            await checkpoints.settle()
            await checkpoints.close()

    asyncio.run(scene())
    assert "write-ahead log of state.db only: disk I/O error" in caplog.text


def test_a_checkpoint_that_another_program_prevents_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, timeout=0.1))

    async def scene() -> None:
        with opened(path) as store:
            checkpoints = Checkpoints(store)
            with contextlib.closing(connect(path, isolation_level=None)) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT * FROM volumes").fetchall()
                store.save(VOLUME)
                await checkpoints.settle()
                assert in_the_file(path, "SELECT id FROM volumes") == []
                assert "write-ahead log of state.db only: another program still reads" in caplog.text
            caplog.clear()
            store.save(KEY)
            await checkpoints.settle()
            assert in_the_file(path, "SELECT id FROM volumes") == [("v1",)]
            assert caplog.text == ""
            await checkpoints.close()

    asyncio.run(scene())


@pytest.mark.live  # starts `rm`
def test_only_what_is_unfinished_or_deleted_is_removed(tmp_path: Path) -> None:
    parent = tmp_path / "volumes"
    for name in ("known", "deleted", "deleted in use", "stranger", ".new-copy", "lost twice"):
        (parent / name).mkdir(parents=True)
        (parent / name / "file").write_text(name)
    (parent / "empty").mkdir()
    (parent / "notes.txt").write_text("of the operator")
    (tmp_path / "lost" / "volumes" / "lost twice").mkdir(parents=True)
    set_aside(parent / "deleted")
    set_aside(parent / "deleted in use", in_use=True)
    assert names_set_aside(parent) == {"deleted", "deleted in use"}
    clean_up(parent, {"known"}, ProcessRuntime())
    assert [path.name for path in parent.iterdir()] == ["known"]
    lost = tmp_path / "lost" / "volumes"
    assert sorted(path.name for path in lost.iterdir()) == ["lost twice", "lost twice.2", "notes.txt", "stranger"]
    assert (lost / "stranger" / "file").read_text() == "stranger"


def test_what_is_set_aside_can_be_put_back(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    for in_use in (False, True):
        folder.mkdir(exist_ok=True)
        set_aside(folder, in_use=in_use)
        assert names_set_aside(tmp_path) == {"v1"}
        put_back(folder)
        assert [path.name for path in tmp_path.iterdir()] == ["v1"]
        assert folder.is_dir()


def test_what_cannot_be_moved_stops_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "volumes" / "stranger"
    folder.mkdir(parents=True)
    (folder / "file").touch()
    (tmp_path / "lost").touch()
    with pytest.raises(ConfigurationError, match=r"volumes/stranger is not in the database and cannot be moved to "):
        clean_up(folder.parent, (), ProcessRuntime())
    assert (folder / "file").exists()
