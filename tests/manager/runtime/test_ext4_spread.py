"""The spread of the folders of sandboxes over an ext4 disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kruise_agents.manager.runtime.files.ext4_spread import spread_apart
from support.managers import RunningManager

pytestmark = pytest.mark.live


def flags_of(folder: Path) -> str:
    """Return the flags that ``lsattr`` shows for a folder. Skip the test where folders have no flags."""
    try:
        done = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("lsattr is not installed")
    if done.returncode != 0:
        pytest.skip(f"no such flags here: {done.stderr}")
    return done.stdout.split()[0]


def takes_the_hint(folder: Path) -> bool:
    return subprocess.run(["chattr", "+T", folder], capture_output=True, check=False).returncode == 0


def test_a_file_system_that_spreads_folders_is_asked_to(tmp_path: Path) -> None:
    before = flags_of(tmp_path)
    reference = tmp_path / "reference"
    reference.mkdir()
    if not takes_the_hint(reference):
        pytest.skip("not this one")
    assert "T" not in before
    assert spread_apart(tmp_path) is True
    assert flags_of(tmp_path).replace("T", "-") == before
    assert flags_of(tmp_path) != before


def test_asking_twice_changes_nothing(tmp_path: Path) -> None:
    spread_apart(tmp_path)
    flags = flags_of(tmp_path)
    spread_apart(tmp_path)
    assert flags_of(tmp_path) == flags


def test_a_file_system_that_does_not_is_used_as_it_is() -> None:
    assert spread_apart(Path("/proc/self")) is False


def test_the_folders_of_a_managers_sandboxes_are_spread(manager: RunningManager, tmp_path: Path) -> None:
    flags_of(tmp_path)
    if not takes_the_hint(tmp_path):
        pytest.skip("not by this file system")
    assert "T" in flags_of(manager.state_dir / "sandboxes")
