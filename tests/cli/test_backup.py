"""``kruise-agents backup`` and ``restore``, without a manager."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kruise_agents.cli import backup, restore
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.secret import StateSecret, api_key_at
from kruise_agents.manager.state.tables import VolumeRow

pytestmark = pytest.mark.live  # without root, programs look for the ids of sandboxes


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a key and a volume."""
    folder = tmp_path / "state"
    (folder / "volumes" / "v1").mkdir(parents=True)
    (folder / "volumes" / "v1" / "file").write_text("kept")
    StateSecret.at(folder / "secret")
    api_key_at(folder / "api-key")
    with contextlib.closing(Database(folder / "state.db")) as store:
        store.save(VolumeRow("v1", "owner", "name", 1.0))
    return folder


def back_up(*arguments: object) -> Result:
    return CliRunner().invoke(backup.command, list(map(str, arguments)), prog_name="kruise-agents backup")


def restored(*arguments: object) -> Result:
    return CliRunner().invoke(restore.command, list(map(str, arguments)), prog_name="kruise-agents restore")


def test_a_state_folder_comes_back_with_its_key(state: Path, tmp_path: Path) -> None:
    done = back_up(tmp_path / "copy", "--state-dir", state)
    assert (done.exit_code, done.output) == (0, "")
    again = tmp_path / "again"
    again.mkdir()  # as systemd makes it
    done = restored(tmp_path / "copy", "--state-dir", again)
    assert (done.exit_code, done.output) == (0, "")
    assert (again / "volumes" / "v1" / "file").read_text() == "kept"
    assert api_key_at(again / "api-key") == api_key_at(state / "api-key")
    assert (again / "api-key").stat().st_mode & 0o777 == 0o600
    with contextlib.closing(Database(again / "state.db", may_be_new=False)) as store:
        assert [row.id for row in store.select(VolumeRow)] == ["v1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "copy", "state"]


def test_a_folder_with_content_is_not_touched(state: Path, tmp_path: Path) -> None:
    assert back_up(tmp_path / "copy", "--state-dir", state).exit_code == 0
    (state / "mine").touch()
    done = restored(tmp_path / "copy", "--state-dir", state)
    assert done.exit_code == 2
    assert f"{state} is not empty; end its manager and move the folder away" in done.output
    assert (state / "mine").exists()
    done = back_up(state, "--state-dir", state)
    assert (done.exit_code, done.output) == (2, f"kruise-agents: {state} exists; name a folder that does not\n")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("state.db", b"no database" * 1000, "file is not a database"),
        ("state.db", None, "is no state folder"),
        ("secret", b"short", "has 5 bytes in place of 32"),
        ("secret", None, "secret is missing"),
    ],
)
def test_a_damaged_backup_leaves_the_state_folder_as_it_was(
    name: str, content: bytes | None, text: str, state: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    assert back_up(copy, "--state-dir", state).exit_code == 0
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(content)
    done = restored(copy, "--state-dir", tmp_path / "again")
    assert done.exit_code in (1, 2)
    assert text in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "state"]


def test_a_restore_that_was_killed_is_begun_anew(state: Path, tmp_path: Path) -> None:
    assert back_up(tmp_path / "copy", "--state-dir", state).exit_code == 0
    (tmp_path / ".again.restoring" / "volumes").mkdir(parents=True)
    assert restored(tmp_path / "copy", "--state-dir", tmp_path / "again").exit_code == 0


def test_wrong_arguments_have_the_usual_exit_code(state: Path, tmp_path: Path) -> None:
    for done in (back_up(), restored(), restored(tmp_path / "none"), back_up(tmp_path / "x", "--state-dir", tmp_path)):
        assert done.exit_code == 2
        assert not isinstance(done.exception, Exception)
