"""The filesystem service: entries, listings, and the errors that programs rely on."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import FileNotFoundException, FileType, InvalidArgumentException, Sandbox, SandboxException

from kruise_agents.sandbox.envd.filesystem.entries import permissions, timestamp
from kruise_agents.sandbox.envd.filesystem.service import _FEW


def call(served: Any, method: str, **request: Any) -> httpx.Response:
    # Not httpx's own encoding, which leaves out the escapes that lone surrogates need.
    headers = {"content-type": "application/json"}
    content = json.dumps(request)
    return httpx.post(f"{served.url}/filesystem.Filesystem/{method}", content=content, headers=headers)


def error(served: Any, method: str, **request: Any) -> tuple[str, str]:
    reply = call(served, method, **request).json()
    return reply["code"], reply["message"]


def test_an_entry_has_every_fact(sandbox: Sandbox, served_envd: Any) -> None:
    file = served_envd.home / "f.txt"
    file.write_text("four")
    os.utime(file, ns=(0, 1_500_000_000_500_000_000))
    entry = call(served_envd, "Stat", path="f.txt").json()["entry"]
    assert entry == {
        "name": "f.txt",
        "type": "FILE_TYPE_FILE",
        "path": str(file),
        "size": "4",
        "mode": 0o644,
        "permissions": "-rw-r--r--",
        "owner": "user",
        "group": "user",
        "modifiedTime": "2017-07-14T02:40:00.500Z",
    }
    info = sandbox.files.get_info("f.txt")
    assert (info.type, info.size, info.mode) == (FileType.FILE, 4, 0o644)
    assert info.modified_time == datetime(2017, 7, 14, 2, 40, 0, 500_000, UTC)


def test_a_link_looks_like_its_target(sandbox: Sandbox, served_envd: Any) -> None:
    home = served_envd.home
    (home / "folder").mkdir()
    (home / "to-folder").symlink_to("folder")
    (home / "dangling").symlink_to("nothing")
    entry = call(served_envd, "Stat", path="to-folder").json()["entry"]
    assert entry["type"] == "FILE_TYPE_DIRECTORY"
    assert entry["symlinkTarget"] == str(home / "folder")
    assert (entry["mode"], entry["permissions"]) == (0o755, "Lrwxrwxrwx")
    assert entry["path"] == str(home / "to-folder")
    assert "isSymlink" not in entry, "programs expect the type of what a link leads to"
    entry = call(served_envd, "Stat", path="dangling").json()["entry"]
    assert (entry["type"], entry["mode"]) == ("FILE_TYPE_UNSPECIFIED", 0)
    assert entry["symlinkTarget"] == str(home / "dangling")
    assert [info.name for info in sandbox.files.list(".")] == ["folder", "to-folder"]


def test_things_that_are_neither_file_nor_folder_are_left_out_of_lists(sandbox: Sandbox, served_envd: Any) -> None:
    os.mkfifo(served_envd.home / "fifo")
    assert sandbox.files.list(".") == []
    assert call(served_envd, "Stat", path="fifo").json()["entry"]["permissions"] == "prw-r--r--"


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (stat.S_IFREG | 0o644, "-rw-r--r--"),
        (stat.S_IFDIR | 0o755, "drwxr-xr-x"),
        (stat.S_IFDIR | 0o1777, "dtrwxrwxrwx"),
        (stat.S_IFREG | 0o4755, "urwxr-xr-x"),
        (stat.S_IFREG | 0o6755, "ugrwxr-xr-x"),
        (stat.S_IFLNK | 0o777, "Lrwxrwxrwx"),
        (stat.S_IFSOCK | 0o755, "Srwxr-xr-x"),
        (stat.S_IFCHR | 0o666, "Dcrw-rw-rw-"),
        (stat.S_IFBLK | 0o660, "Drw-rw----"),
        (stat.S_IFREG, "----------"),
    ],
)
def test_permissions_are_written_as_go_does(mode: int, text: str) -> None:
    assert permissions(mode) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_500_000_000, "1970-01-01T00:00:01.500Z"),
        (1_000_001_000, "1970-01-01T00:00:01.000001Z"),
        (1_000_000_001, "1970-01-01T00:00:01.000000001Z"),
        (-500_000_000, "1969-12-31T23:59:59.500Z"),
        (-62_135_596_800 * 10**9, "0001-01-01T00:00:00Z"),
        (10**26, "1970-01-01T00:00:00Z"),
        (10**30, "1970-01-01T00:00:00Z"),
    ],
)
def test_times_have_whole_groups_of_digits(nanoseconds: int, text: str) -> None:
    assert timestamp(nanoseconds) == text


@pytest.fixture
def tree(served_envd: Any) -> Path:
    root = served_envd.home / "tree"
    for folder in ("subdir1/deep/deeper", "subdir2", "Zebra"):
        (root / folder).mkdir(parents=True)
    for file in ("file1.txt", "subdir1/b", "subdir1/a", "subdir1/deep/x", "äfter"):
        (root / file).write_text("x")
    (root / "zlink").symlink_to("subdir1")
    return root


def test_lists_are_in_byte_order_and_depth_first(tree: Path, sandbox: Sandbox) -> None:
    def names(depth: int) -> list[str]:
        return [str(Path(info.path).relative_to(tree)) for info in sandbox.files.list("tree", depth=depth)]

    assert names(1) == ["Zebra", "file1.txt", "subdir1", "subdir2", "zlink", "äfter"]
    assert names(2) == [
        "Zebra",
        "file1.txt",
        "subdir1",
        "subdir1/a",
        "subdir1/b",
        "subdir1/deep",
        "subdir2",
        "zlink",
        "äfter",
    ]
    assert "subdir1/deep/x" in names(3)
    assert "subdir1/deep/deeper" in names(3)
    assert not any(name.startswith("zlink/") for name in names(5))


def test_depth_zero_is_one(tree: Path, served_envd: Any) -> None:
    for request in ({}, {"depth": 0}, {"depth": 1}):
        assert len(call(served_envd, "ListDir", path="tree", **request).json()["entries"]) == 6


@pytest.mark.parametrize("count", [_FEW - 1, _FEW, _FEW + 1])
def test_a_list_is_the_same_on_the_event_loop_and_in_a_thread(sandbox: Sandbox, served_envd: Any, count: int) -> None:
    names = [f"{number:03}" for number in range(count)]
    for name in reversed(names):
        (served_envd.home / name).touch()
    assert [entry.name for entry in sandbox.files.list("")] == names


def test_a_list_below_a_link_has_the_paths_that_were_asked_for(tree: Path, sandbox: Sandbox) -> None:
    assert [info.path for info in sandbox.files.list(f"{tree}/zlink")] == [
        f"{tree}/zlink/{name}" for name in ("a", "b", "deep")
    ]


def test_names_that_are_no_text_do_not_break_a_list(sandbox: Sandbox, served_envd: Any) -> None:
    Path(os.fsdecode(os.fsencode(served_envd.home) + b"/bad\xff")).write_text("x")
    assert [info.name for info in sandbox.files.list(".")] == ["bad\ufffd"]


def test_what_goes_while_it_is_listed_is_left_out(sandbox: Sandbox, served_envd: Any) -> None:
    folder = served_envd.home / "busy"
    (folder / "stays").mkdir(parents=True)
    end = threading.Event()

    def come_and_go() -> None:
        while not end.is_set():
            for number in range(50):
                (folder / f"d{number}").mkdir()
            for number in range(50):
                (folder / f"d{number}").rmdir()

    busy = threading.Thread(target=come_and_go)
    busy.start()
    try:
        for _ in range(50):
            assert "stays" in [info.name for info in sandbox.files.list("busy", depth=2)]
    finally:
        end.set()
        busy.join()


def test_list_errors(tree: Path, served_envd: Any, sandbox: Sandbox) -> None:
    home = served_envd.home
    (home / "loop").symlink_to("loop")
    assert error(served_envd, "ListDir", path="none") == (
        "not_found",
        f"path not found: lstat {home}/none: no such file or directory",
    )
    assert error(served_envd, "ListDir", path="tree/file1.txt") == (
        "invalid_argument",
        f"path is not a directory: {tree}/file1.txt",
    )
    assert error(served_envd, "ListDir", path="loop") == (
        "failed_precondition",
        f'cyclic symlink or chain >255 links at "{home}/loop"',
    )
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("none")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list("tree/file1.txt")


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(locked: Path, served_envd: Any) -> None:
    assert error(served_envd, "ListDir", path=str(locked)) == (
        "permission_denied",
        f"error reading directory: open {locked}: permission denied",
    )
    code, message = error(served_envd, "ListDir", path=f"{locked}/below")
    assert (code, message) == ("permission_denied", f"error getting file info: stat {locked}/below: permission denied")
    below = call(served_envd, "ListDir", path=str(locked.parent), depth=2).json()["entries"]
    assert [entry["path"] for entry in below] == [str(locked)]


@pytest.fixture
def deep_trees(served_envd: Any) -> Iterator[None]:
    """``short``: many levels, in paths that Linux takes; ``long``: deeper than a path can be written."""
    for name, levels, folder in (("short", 1200, "d"), ("long", 1500, "d" * 20)):
        (served_envd.home / name).mkdir()
        descriptor = os.open(served_envd.home / name, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir(folder, dir_fd=descriptor)
            outer, descriptor = descriptor, os.open(folder, os.O_RDONLY, dir_fd=descriptor)
            os.close(outer)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        os.close(descriptor)
    yield
    # pytest could not remove them, and would fail in every later run.
    subprocess.run(["rm", "-rf", served_envd.home / "short", served_envd.home / "long"], check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("deep_trees")
def test_deep_trees_are_listed_and_removed(sandbox: Sandbox, served_envd: Any) -> None:
    (served_envd.home / "short/beside").touch()
    found = sandbox.files.list("short", depth=2000)
    assert len(found) == 1202
    assert found[0].name == "beside"
    assert found[-1].name == "file"
    # What is below the longest path that Linux allows cannot be named, and is left out.
    assert 100 < len(sandbox.files.list("long", depth=2000)) < 250
    for name in ("short", "long"):
        sandbox.files.remove(name)
    assert list(served_envd.home.iterdir()) == []


def test_stat_errors(served_envd: Any, sandbox: Sandbox) -> None:
    (served_envd.home / "file").write_text("x")
    for path in ("none", "file/below"):
        code, message = error(served_envd, "Stat", path=path)
        assert (code, message.startswith("file not found: ")) == ("not_found", True)
        assert not sandbox.files.exists(path)


@pytest.mark.parametrize(("path", "below"), [("", ""), ("~", ""), ("~/x", "/x"), ("x/../y", "/y"), ("./x", "/x")])
def test_paths_are_read_from_home(path: str, below: str, served_envd: Any) -> None:
    for name in ("x", "y"):
        (served_envd.home / name).touch()
    assert call(served_envd, "Stat", path=path).json()["entry"]["path"] == f"{served_envd.home}{below}"


@pytest.mark.parametrize("path", ["~bob", "a\0b", "a\ud83d", "/tmp/\udcff"])
def test_paths_that_cannot_be_read_are_invalid(path: str, served_envd: Any) -> None:
    code, message = error(served_envd, "Stat", path=path)
    assert code == "invalid_argument"
    assert message.startswith("failed to expand path '")


def test_tilde_of_others_has_the_known_text(served_envd: Any) -> None:
    assert error(served_envd, "Stat", path="~bob")[1] == (
        "failed to expand path '~bob' for user 'user': cannot expand user-specific home dir"
    )


def test_folders_are_made_once(sandbox: Sandbox, served_envd: Any) -> None:
    assert sandbox.files.make_dir("a/b/c") is True
    assert sandbox.files.make_dir("a/b/c") is False
    assert (served_envd.home / "a/b/c").stat().st_mode & 0o7777 == 0o755
    home = served_envd.home
    (home / "file").write_text("x")
    assert error(served_envd, "MakeDir", path="a") == ("already_exists", f"directory already exists: {home}/a")
    assert error(served_envd, "MakeDir", path="file") == (
        "invalid_argument",
        f"path already exists but it is not a directory: {home}/file",
    )
    assert error(served_envd, "MakeDir", path="file/x") == (
        "internal",
        f"error getting file info: stat {home}/file/x: not a directory",
    )


@pytest.mark.parametrize("path", ["dangling", "dangling/"])
def test_a_link_to_nothing_is_no_folder(path: str, served_envd: Any) -> None:
    home = served_envd.home
    (home / "dangling").symlink_to("nothing")
    assert error(served_envd, "MakeDir", path=f"{home}/{path}") == (
        "invalid_argument",
        f"path already exists but it is not a directory: {home}/{path}",
    )
    assert error(served_envd, "MakeDir", path="dangling/below") == ("internal", f"path is a file: {home}/dangling")
    assert not (home / "nothing").exists()


def test_a_rename_replaces_files_and_makes_parents(sandbox: Sandbox, served_envd: Any) -> None:
    home = served_envd.home
    (home / "a").write_text("new")
    (home / "a").chmod(0o600)
    inode = (home / "a").stat().st_ino
    (home / "b").write_text("old")
    assert sandbox.files.rename("a", "b").path == f"{home}/b"
    assert ((home / "b").read_text(), (home / "b").stat().st_ino) == ("new", inode)
    sandbox.files.rename("b", "x/y/z")
    assert (home / "x/y/z").stat().st_mode & 0o777 == 0o600


def test_rename_errors(served_envd: Any, sandbox: Sandbox) -> None:
    home = served_envd.home
    (home / "file").write_text("x")
    (home / "full/x").mkdir(parents=True)
    (home / "folder").mkdir()
    with pytest.raises(FileNotFoundException, match="source file not found: "):
        sandbox.files.rename("none", "other")
    assert error(served_envd, "Move", source="folder", destination="file/x") == (
        "internal",
        f"path is a file: {home}/file",
    )
    code, message = error(served_envd, "Move", source="folder", destination="full")
    assert (code, message) == (
        "internal",
        f"error renaming: rename {home}/folder {home}/full: directory not empty",
    )


def test_remove_takes_everything_below(tree: Path, sandbox: Sandbox, served_envd: Any) -> None:
    outside = served_envd.home / "outside"
    outside.mkdir()
    (tree / "subdir1/out").symlink_to(outside)
    sandbox.files.remove("tree")
    assert not tree.exists()
    assert outside.exists()
    sandbox.files.remove("tree")


def test_remove_takes_links_and_not_what_they_lead_to(sandbox: Sandbox, served_envd: Any) -> None:
    (served_envd.home / "folder").mkdir()
    for target in ("folder", "nothing"):
        (served_envd.home / "link").symlink_to(target)
        sandbox.files.remove("link")
        assert not (served_envd.home / "link").is_symlink()
    assert (served_envd.home / "folder").exists()


@pytest.mark.parametrize("ending", ["/", "//"])
def test_a_trailing_slash_does_not_follow_a_link(ending: str, sandbox: Sandbox, served_envd: Any) -> None:
    home = served_envd.home
    (home / "folder").mkdir()
    (home / "folder/kept").touch()
    for name in ("link", "other"):
        (home / name).symlink_to("folder")
    sandbox.files.remove(f"{home}/link{ending}")
    sandbox.files.rename(f"{home}/other{ending}", f"{home}/renamed")
    assert sorted(one.name for one in home.iterdir()) == ["folder", "renamed"]
    assert (home / "renamed").is_symlink()
    assert (home / "folder/kept").exists()
    with pytest.raises(SandboxException, match="error renaming: "):
        sandbox.files.rename(f"{home}/folder/kept", f"{home}/renamed{ending}")
    sandbox.files.remove(f"{home}/folder{ending}")
    assert not (home / "folder").exists()


@pytest.mark.parametrize("name", [".", ".."])
def test_remove_refuses_names_of_no_entry(name: str, served_envd: Any) -> None:
    """Such a name would lead through a link, and the named folder could not be removed in the end."""
    (served_envd.home / "folder/inner").mkdir(parents=True)
    path = f"{served_envd.home}/folder/inner/{name}"
    message = f"error removing file or directory: unlinkat {path}: invalid argument"
    assert error(served_envd, "Remove", path=path) == ("internal", message)
    assert (served_envd.home / "folder/inner").exists()


def test_remove_says_what_it_cannot_remove(locked: Path, served_envd: Any) -> None:
    message = f"error removing file or directory: unlinkat {locked}: permission denied"
    assert error(served_envd, "Remove", path=str(locked)) == ("internal", message)


def test_remove_says_which_paths_it_cannot_reach(served_envd: Any) -> None:
    (served_envd.home / "loop").symlink_to("loop")
    path = f"{served_envd.home}/loop/file"
    message = f"error removing file or directory: unlinkat {path}: too many levels of symbolic links"
    assert error(served_envd, "Remove", path=path) == ("internal", message)


def test_remove_takes_sockets_too(sandbox: Sandbox, served_envd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(served_envd.home)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        sandbox.files.remove("s")
    assert not (served_envd.home / "s").exists()
