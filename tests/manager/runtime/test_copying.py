"""Copies of file trees: whatever Linux allows in a tree is in the copy too."""

from __future__ import annotations

import errno
import os
import random
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kruise_agents.manager.runtime.files import copying
from kruise_agents.manager.runtime.files.copying import Copier
from kruise_agents.manager.runtime.files.trees import copy_command, remove_tree

pytestmark = pytest.mark.live
FOLDER = os.O_RDONLY | os.O_DIRECTORY
NOBODY = 0xFFFFFFFF
LEVELS = 3000


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "source"
    folder.mkdir()
    yield folder
    remove_tree(folder)
    remove_tree(tmp_path / "target")


def copied(source: Path) -> tuple[Path, str]:
    """Copy a folder as the manager does, and return the copy and what the program printed."""
    target = source.with_name("target")
    target.mkdir()
    done = subprocess.run(copy_command(source, target), capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.returncode == (1 if done.stdout else 0)
    return target, done.stdout


def look(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    kind = stat.S_IFMT(found.st_mode)
    content = path.readlink() if kind == stat.S_IFLNK else path.read_bytes() if kind == stat.S_IFREG else None
    names = () if kind == stat.S_IFLNK else sorted(os.listxattr(path))
    attributes = {name: os.getxattr(path, name) for name in names}
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content, attributes


def assert_same(one: Path, other: Path) -> None:
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    assert names == sorted(path.relative_to(other) for path in other.rglob("*"))
    for name in (Path(), *names):
        assert look(one / name) == look(other / name), name


def access_list(user: int) -> bytes:
    entries = [
        (0x01, 6, NOBODY),
        (0x02, 4, user),
        (0x04, 4, NOBODY),
        (0x10, 6, NOBODY),
        (0x20, 0, NOBODY),
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def make_modes(folder: Path) -> None:
    for mode in (0o000, 0o111, 0o444, 0o555, 0o700, 0o1777, 0o2755, 0o4755):
        inner = folder / f"{mode:o}"
        inner.mkdir()
        (inner / "file").write_text("x")
        (inner / "file").chmod(mode)
        inner.chmod(mode if os.geteuid() == 0 else mode | 0o500)


def make_attributes(folder: Path) -> None:
    file = folder / "file"
    file.write_text("x")
    for path in (folder, file):
        os.setxattr(path, "user.note", b"\0\xff")
        os.setxattr(path, "system.posix_acl_access", access_list(12345))
    os.setxattr(folder, "system.posix_acl_default", access_list(54321))


def make_links(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "a").write_text("x")
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "loop").symlink_to("loop")
    os.link(folder / "a", folder / "d" / "b")
    os.link(folder / "outside", folder / "d" / "outside too", follow_symlinks=False)


def make_special(folder: Path) -> None:
    os.mkfifo(folder / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))


def make_hidden(folder: Path) -> None:
    os.mknod(folder / "hidden by an overlay", stat.S_IFCHR | 0o640, os.makedev(0, 0))


def make_names(folder: Path) -> None:
    for name in (b"\xff\xfe", b"a\nb", b"-rf", b"a" * 255, b" ", "é".encode()):
        (folder / os.fsdecode(name)).write_text("x")


def make_times(folder: Path) -> None:
    for name, seconds in (("old", -5), ("new", 2**33)):
        (folder / name).write_text("x")
        os.utime(folder / name, ns=(seconds * 10**9 + 1, seconds * 10**9 + 2))


@pytest.mark.parametrize(
    "make", [make_modes, make_attributes, make_links, make_special, make_hidden, make_names, make_times]
)
def test_a_copy_is_like_the_original(source: Path, make: Callable[[Path], None]) -> None:
    make(source)
    target, complaints = copied(source)
    assert complaints == ""
    assert_same(source, target)


def test_names_of_one_file_are_names_of_one_file_in_the_copy(source: Path) -> None:
    make_links(source)
    target, _ = copied(source)
    assert (target / "a").stat().st_ino == (target / "d" / "b").stat().st_ino != (source / "a").stat().st_ino
    assert (target / "a").stat().st_nlink == 2


def test_holes_stay_holes_and_the_size_stays(source: Path) -> None:
    with (source / "file").open("wb") as file:
        file.write(b"begin")
        file.seek(1 << 30)
        file.write(b"end")
        file.truncate(1 << 31)
    target, _ = copied(source)
    with (target / "file").open("rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek(1 << 30)
        assert file.read(4) == b"end\0"
    found = (target / "file").stat()
    assert found.st_size == 1 << 31
    assert found.st_blocks * 512 < 1 << 20


def test_a_file_of_many_pieces_is_whole(source: Path) -> None:
    content = random.Random(1).randbytes(5 * (1 << 20) + 7)
    (source / "file").write_bytes(content)
    target, _ = copied(source)
    assert (target / "file").read_bytes() == content


@pytest.mark.parametrize("name", ["d", "d" * 250])
def test_a_tree_of_many_levels_is_copied(source: Path, name: str) -> None:
    folder = os.open(source, FOLDER)
    for _ in range(LEVELS):
        os.mkdir(name, dir_fd=folder)
        folder = step(name, folder)
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    target, complaints = copied(source)
    assert complaints == ""
    folder = os.open(target, FOLDER)
    for _ in range(LEVELS):
        folder = step(name, folder)
    assert os.listdir(folder) == ["file"]  # noqa: PTH208 - its path is too long
    os.close(folder)


def step(name: str, folder: int) -> int:
    inner = os.open(name, FOLDER, dir_fd=folder)
    os.close(folder)
    return inner


def test_few_files_are_open_at_a_time(source: Path) -> None:
    make_links(source)
    for number in range(50):
        (source / f"{number}").write_text("x")
    (source / Path(*"d" * 100)).mkdir(parents=True, exist_ok=True)
    target = source.with_name("target")
    target.mkdir()
    program = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); sys.argv.pop(0);"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", program, copying.__file__, str(source), str(target)]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == ""
    assert_same(source, target)


def test_what_cannot_be_copied_is_named_and_the_rest_is_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(150):
        (source / f"bad{number}").mkdir()
    (source / "good").write_text("x")
    target = source.with_name("target")
    target.mkdir()

    def refuse(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path).startswith("bad"):
            raise PermissionError(13, "Permission denied")
        return open_(path, flags, mode, dir_fd=dir_fd)

    open_ = os.open
    monkeypatch.setattr(os, "open", refuse)
    copier = Copier()
    copier.copy(source, target)
    monkeypatch.undo()
    assert (target / "good").read_text() == "x"
    assert len(copier.complaints) == 101
    assert copier.complaints[0].endswith(": Permission denied")
    assert copier.complaints[-1] == "and 50 more"


def test_a_link_in_place_of_a_file_is_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (source / "file").symlink_to(tmp_path / "secret")
    (source / "folder").symlink_to(tmp_path)
    target, _ = copied(source)
    assert (target / "file").is_symlink()
    assert (target / "folder").is_symlink()


def test_a_full_disk_ends_the_copy(source: Path) -> None:
    (source / "file").write_bytes(b"x" * (1 << 20))
    (source / "later").mkdir()
    target = source.with_name("target")
    target.mkdir()
    code = "import errno, os, sys; from kruise_agents.manager.runtime.files import copying\n"
    code += "def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))\n"
    code += "os.sendfile = full; sys.exit(copying.main())"
    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "No space left on device\n")


def copied_here(source: Path) -> tuple[Path, list[str]]:
    """Copy in this process, where a test may replace functions."""
    target = source.with_name("target")
    target.mkdir()
    copier = Copier()
    copier.copy(source, target)
    return target, copier.complaints


def test_a_file_may_have_as_many_names_as_the_disk_allows(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link, most = os.link, 5

    def link_few(name: str, *arguments: object, **options: object) -> None:
        if os.stat(name, dir_fd=options["src_dir_fd"], follow_symlinks=False).st_nlink == most:  # type: ignore[arg-type]
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(name, *arguments, **options)  # type: ignore[arg-type]

    (source / "0").write_text("x")
    for number in range(1, most):
        link(source / "0", source / f"{number}")
    monkeypatch.setattr(os, "link", link_few)
    target, complaints = copied_here(source)
    assert complaints == []
    assert sorted(os.listdir(target)) == ["0", "1", "2", "3", "4"]  # noqa: PTH208 - names that begin with a dot too
    assert (target / "0").stat().st_nlink == most


@pytest.mark.parametrize("moved", [["a"], ["a/b"], ["a/b/c"], ["a/b/c", "a/b"], ["a/b/c", "a/b", "a"]])
def test_a_folder_that_is_moved_meanwhile_does_not_end_the_copy(
    source: Path, monkeypatch: pytest.MonkeyPatch, moved: list[str]
) -> None:
    (source / "a/b/c").mkdir(parents=True)
    (source / "a/b/c/file").write_text("x")
    (source / "elsewhere/deeper").mkdir(parents=True)
    for name in ("0", "z", "a/0", "a/z"):
        (source / name).write_text("x")
    copy_file = Copier._copy_file

    def move_then_copy(copier: Copier, name: str) -> None:
        if name == "file":
            for folder in moved:
                (source / folder).rename(source / "elsewhere/deeper" / Path(folder).name)
        copy_file(copier, name)

    monkeypatch.setattr(Copier, "_copy_file", move_then_copy)
    target, complaints = copied_here(source)
    assert (target / "a/b/c/file").read_text() == "x"
    assert {"0", "a", "elsewhere", "z"} == {path.name for path in target.iterdir()}
    # One moved folder was finished where it is now, and the folder around it is still in its place.
    assert complaints == ([] if len(moved) == 1 else ["'a/b/.': the folder was moved during the copy"])
    if "a" not in moved or len(moved) == 1:
        assert (target / "a/0").read_text() == (target / "a/z").read_text() == "x"


def test_a_folder_that_is_replaced_before_it_is_opened_is_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "a").mkdir()
    (source / "other/inner").mkdir(parents=True)
    (source / "other/file").write_text("x")
    enter = Copier._enter

    def replace_then_enter(copier: Copier, name: str, *more: object) -> None:
        if name == "a" and (source / "other").exists():
            (source / "a").rmdir()
            (source / "other").rename(source / "a")
        enter(copier, name, *more)

    monkeypatch.setattr(Copier, "_enter", replace_then_enter)
    target, complaints = copied_here(source)
    assert complaints == []
    assert (target / "a/file").read_text() == "x"


def test_what_is_removed_meanwhile_is_no_failure(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "file").write_text("x")
    (source / "kept").write_text("x")
    copy_one = Copier._copy_one

    def remove_then_copy(copier: Copier, name: str, found: os.stat_result) -> None:
        if name == "file":
            (source / "file").unlink()
        copy_one(copier, name, found)

    monkeypatch.setattr(Copier, "_copy_one", remove_then_copy)
    target, complaints = copied_here(source)
    assert complaints == []
    assert [path.name for path in target.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("name", "mode"), [("user.note", 0o775), ("system.posix_acl_access", 0o705)], ids=["note", "access list"]
)
def test_an_attribute_that_the_disk_does_not_take_costs_nothing_else(
    source: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: int
) -> None:
    (source / "later").write_text("x")
    make_attributes(source)
    (source / "file").chmod(0o775)
    setxattr = os.setxattr

    def refuse(path: int, attribute: str, value: bytes) -> None:
        if attribute == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as ext4 says for more than 4 KiB
        setxattr(path, attribute, value)

    monkeypatch.setattr(os, "setxattr", refuse)
    target, complaints = copied_here(source)
    reason = f"the attribute {name} is too long for this disk"
    assert sorted(complaints) == [f"'.': {reason}", f"'file': {reason}"]
    assert (target / "file").stat().st_mode & 0o777 == mode
    assert (target / "file").stat().st_mtime_ns == (source / "file").stat().st_mtime_ns
    assert (target / "later").read_text() == "x"
