"""The file with the API key of a state folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.state.secret import api_key_at


def test_a_key_is_made_once_and_replaced_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    first = api_key_at(path)
    assert re.fullmatch("e2b_[0-9a-f]{40}", first)
    assert path.stat().st_mode & 0o777 == 0o600
    assert api_key_at(path) == first
    second = api_key_at(path, new=True)
    assert second != first
    assert api_key_at(path) == second
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"\n", b"e2b_12\n", b"my-key\n", b"\xff" * 44, b"e2b_" + b"0" * 40 + b"\n\n"])
def test_a_damaged_file_is_refused_and_a_new_key_mends_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=f"{path} is damaged: .* start once with --new-key"):
        api_key_at(path)
    assert path.read_bytes() == content
    assert api_key_at(path, new=True) == api_key_at(path)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o620])
def test_a_file_that_others_can_use_is_refused_and_a_new_key_mends_it(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "api-key"
    old = api_key_at(path)
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"other users can use the API key in {path} .mode {mode:o}."):
        api_key_at(path)
    assert api_key_at(path, new=True) != old
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_pipe_in_place_of_the_file_does_not_hold_up_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "api-key", 0o600)
    with pytest.raises(ConfigurationError, match="is damaged"):
        api_key_at(tmp_path / "api-key")
