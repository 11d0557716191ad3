"""Starts on damaged state folders: whatever is broken, cut or missing, no start removes a file of users."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.accounts.keys import ADMIN_ID
from kruise_agents.manager.accounts.quota import UNLIMITED
from kruise_agents.manager.manager import Manager
from kruise_agents.manager.runtime import Limits
from kruise_agents.manager.runtime.files.layout import folder_name
from kruise_agents.manager.sandboxes.sandbox import Lifetime
from kruise_agents.manager.settings import Settings
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.tables import ApiKeyRow, SandboxRow, SnapshotRow, VolumeRow
from kruise_agents.manager.templates.model import built_in
from support.mutations import broken, flipped, times

pytestmark = [pytest.mark.live, pytest.mark.slow]  # a start may start `rm`

MADE, OVER = 1_700_000_000.0, 4_000_000_000.0
OWNER = "3f0c8bc4-8a0b-4f0e-9a44-6c5f3f2d9a11"
TEMPLATE = built_in(Limits())[0].to_json()
NUMBERS = range(3)
SANDBOXES = [f"i{number}abcdefghijklmnopqrs" for number in NUMBERS]
DATABASE = ("state.db", "state.db-wal", "state.db-shm")
PARENTS = ("sandboxes", "snapshots", "volumes")
FOLDERS = {
    f"sandboxes/{folder_name(sandbox_id)}": f"sandboxes/{folder_name(sandbox_id)}/rootfs/home/user/mine.txt"
    for sandbox_id in SANDBOXES
}
FOLDERS |= {f"snapshots/s{number}0123456789": f"snapshots/s{number}0123456789/home/user/mine.txt" for number in NUMBERS}
FOLDERS |= {f"volumes/v{number}0123456789": f"volumes/v{number}0123456789/mine.txt" for number in NUMBERS}
WAYS_OUT = re.compile(r"choose another (state )?(folder )?with --state-dir|from a backup|remove it|move it there")


def save_rows(store: Database) -> None:
    store.save(ApiKeyRow(OWNER, b"digest", "key", "red", MADE, ADMIN_ID, None, UNLIMITED.to_json()))
    for number, sandbox_id in zip(NUMBERS, SANDBOXES, strict=True):
        over = OVER if number else None
        store.save(
            SandboxRow(
                id=sandbox_id,
                uid=sandbox_id[::-1],
                owner=OWNER,
                runtime="process",
                template=TEMPLATE,
                metadata='{"purpose": "test"}',
                lifetime=json.dumps(asdict(Lifetime(300.0))),
                secure=1,
                state="paused",
                started_at=MADE,
                end_at=MADE,
                kept_until=over,
                keeps_memory=0,
                pid=None,
                pid_started=None,
                boot=None,
                asleep="[]",
                network="{}",
            )
        )
        snapshot = f"s{number}0123456789"
        store.save(SnapshotRow(OWNER, snapshot, snapshot, None, TEMPLATE, sandbox_id, MADE, over))
        store.save(VolumeRow(f"v{number}0123456789", OWNER, f"volume {number}", MADE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a manager that was killed while its log had a row that the database has not."""
    folder, draft = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("draft")
    (folder / "secret").write_bytes(bytes(range(32)))
    with closing(Database(draft / "state.db")) as store:
        save_rows(store)
        store.checkpoint()
        store.write("UPDATE api_keys SET last_used = ?", (MADE,))
        for name in DATABASE:
            shutil.copy(draft / name, folder / name)
    for file in FOLDERS.values():
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(file)
    return folder


def files(state_dir: Path) -> dict[str, str]:
    """Return the places of the files of users. The keys are the files' contents, which are their first places."""
    return {path.read_text(): str(path.relative_to(state_dir)) for path in state_dir.rglob("mine.txt")}


def start_and_end(state_dir: Path) -> None:
    async def run() -> None:
        options = Settings(state_dir=state_dir, api_keys=("key",), port=0, runtime="process", pool=0, keep=True)
        async with Manager(options, lambda message: None):
            await asyncio.sleep(0)  # timers that are due are called now, and the end waits for what they begin

    asyncio.run(run())


def replace(path: Path, by: str) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    if by == "a file":
        path.touch()
    elif by == "a folder":
        path.mkdir()


def damage_a_file(data: st.DataObject, path: Path) -> None:
    if not path.is_file():
        return
    content = path.read_bytes()
    match data.draw(st.sampled_from(["flip", "flip", "flip", "break", "cut", "replace"]), label=path.name):
        case "flip" if any(content):
            path.write_bytes(data.draw(flipped(content)))
        case "break":
            path.write_bytes(data.draw(broken([content])))
        case "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        case _:
            replace(path, data.draw(st.sampled_from(["nothing", "a file", "a folder"])))


def damage_a_folder(data: st.DataObject, path: Path) -> None:
    if path.is_dir():
        replace(path, data.draw(st.sampled_from(["nothing", "a file", "a folder"]), label=path.name))


@settings(times(0.25), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_damage_makes_a_start_remove_files(whole: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        state_dir = Path(folder) / "state"
        shutil.copytree(whole, state_dir)
        for name in data.draw(st.lists(st.sampled_from([*DATABASE, "state.db", "secret"]), max_size=2)):
            damage_a_file(data, state_dir / name)
        for name in data.draw(st.lists(st.sampled_from([*FOLDERS, *PARENTS]), max_size=2)):
            damage_a_folder(data, state_dir / name)
        before = files(state_dir)
        refusal = None
        try:
            start_and_end(state_dir)
        except ConfigurationError as error:
            refusal = str(error)
        assert refusal is None or WAYS_OUT.search(refusal), refusal
        after = files(state_dir)
        assert set(after) == set(before)
        assert all(place in (first, f"lost/{first}") for first, place in after.items()), after


@pytest.mark.parametrize("damage", ["UPDATE sandboxes SET kept_until = 0", "UPDATE snapshots SET expires_at = 0"])
def test_an_end_before_the_beginning_ends_nothing(damage: str, whole: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(whole, state_dir)
    with closing(sqlite3.connect(state_dir / "state.db")) as connection:
        connection.execute(damage)  # a changed bit can make a 0 of NULL
        connection.commit()
    start_and_end(state_dir)
    assert files(state_dir) == {first: first for first in FOLDERS.values()}


@pytest.mark.parametrize("parent", PARENTS)
def test_files_in_the_place_of_folders_are_moved_to_lost(parent: str, whole: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    shutil.copytree(whole, state_dir)
    names = [name for name in FOLDERS if name.startswith(parent)]
    for name in names:
        replace(state_dir / name, "a file")
    start_and_end(state_dir)
    assert all((state_dir / "lost" / name).is_file() for name in names)
