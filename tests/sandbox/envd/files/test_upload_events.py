"""The events of an upload for a watcher of the folder, read from inotify itself."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox

from kruise_agents.sandbox.envd.files import write

MODIFY, ATTRIB, CREATE = 0x2, 0x4, 0x100
IS_FOLDER = 0x40000000
NAMES = {MODIFY: "WRITE", ATTRIB: "CHMOD", CREATE: "CREATE"}


class Watch:
    """The inotify events of a folder that envd's clients are told of."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert libc.inotify_add_watch(self.descriptor, os.fsencode(folder), MODIFY | ATTRIB | CREATE) >= 0

    def events(self) -> list[str]:
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return []
        found = []
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append(NAMES[mask & ~IS_FOLDER])
            data = data[16 + length :]
        return found


@pytest.fixture
def watch(served_envd: Any) -> Iterator[Watch]:
    watch = Watch(served_envd.home)
    yield watch
    os.close(watch.descriptor)


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_new_file_is_created_owned_and_written_once(size: int, sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.write("f", b"x" * size)
    assert watch.events() == ["CREATE", "CHMOD", "WRITE"]


def test_an_overwrite_begins_with_the_truncation(sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.write("f", "old")
    watch.events()
    sandbox.files.write("f", "new")
    assert watch.events() == ["WRITE", "CHMOD", "WRITE"]


@pytest.mark.parametrize("old", ["", "old", "something longer"])
@pytest.mark.parametrize("new", ["", "new", "something new that is longer still"])
def test_an_overwrite_leaves_nothing_of_the_old_file(old: str, new: str, sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.write("f", old)
    watch.events()
    sandbox.files.write("f", new)
    assert sandbox.files.read("f") == new
    assert watch.events() == ["WRITE", "CHMOD", *(["WRITE"] if new else [])]


def test_nothing_is_left_of_a_file_that_comes_at_the_last_moment(
    sandbox: Sandbox, served_envd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come(path: str) -> bool:
        Path(path).write_text("something longer")
        return False

    monkeypatch.setattr(write, "_is_there", come)
    sandbox.files.write("f", "new")
    assert (served_envd.home / "f").read_text() == "new"


def test_empty_content_is_not_written(sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.write("f", "")
    assert watch.events() == ["CREATE", "CHMOD"]


def test_metadata_comes_last(sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.write("f", "x", metadata={"a": "1"})
    assert watch.events() == ["CREATE", "CHMOD", "WRITE", "CHMOD"]


def test_a_new_folder_is_created_and_owned(sandbox: Sandbox, watch: Watch) -> None:
    sandbox.files.make_dir("d")
    assert watch.events() == ["CREATE", "CHMOD"]
