"""``kruise-agents sandbox cp``: files and folders in both ways, and nothing outside of the target."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2b import FileType

from kruise_agents.cli.sandbox.copying import Place, parse_place
from kruise_agents.cli.sandbox.download import Download
from kruise_agents.cli.sandbox.errors import SandboxCommandError
from kruise_agents.cli.sandbox.upload import survey

from .conftest import Call, Program

BIG = 30_000_000
TELL_PEAK = """
import atexit, re, sys
from pathlib import Path
def tell():
    print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1], file=sys.stderr)
atexit.register(tell)
"""
"""A prelude for a program that tells the peak of its own memory, in KiB, at its end."""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("abc:/x", Place("abc", "/x")),
        ("default--code-q2:", Place("default--code-q2", "")),
        ("abc:a:b", Place("abc", "a:b")),
        ("./a:b", Place(None, "./a:b")),
        ("/a:b", Place(None, "/a:b")),
        ("plain", Place(None, "plain")),
        ("~/x:y", Place(None, "~/x:y")),
    ],
)
def test_a_place_in_a_sandbox_has_a_colon(text: str, place: Place) -> None:
    assert parse_place(text) == place


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what folders have: names of all kinds, an empty folder, links, a program, and a pipe."""
    root = tmp_path / "project"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "a 'quoted' ☃.txt").write_text("a")
    (root / "-rf").write_text("b")
    (root / "sub" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (root / "sub" / "run.sh").chmod(0o755)
    (root / "sub" / "up").symlink_to("../-rf")
    (root / "away").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe")
    return root


def below(root: Path) -> dict[str, str]:
    """Return what is below a folder: the text of files, the targets of links."""
    return {
        str(path.relative_to(root)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_a_folder_comes_back_as_it_went(ks: Call, sandbox: Any, project: Path, tmp_path: Path) -> None:
    there = f"{sandbox.sandbox_id}:/home/user/round"
    sent = ks("cp", project, there)
    assert sent == (0, "", f"left out: {project}/pipe: neither file nor folder\ncopied 3 files, 21 B\n")
    assert ks("exec", sandbox.sandbox_id, "readlink", "round/away").out == "/etc/passwd\n"
    assert ks("exec", sandbox.sandbox_id, "round/sub/run.sh").out == "ran\n"

    back = ks("cp", there, tmp_path / "back")
    assert back.code == 0
    assert "left out: away: a symbolic link out of the folder, to /etc/passwd\n" in back.err
    wanted = {name: text for name, text in below(project).items() if name != "away"}
    assert below(tmp_path / "back") == wanted
    assert (tmp_path / "back" / "sub" / "empty").is_dir()
    assert (tmp_path / "back" / "sub" / "run.sh").stat().st_mode & 0o111
    assert not (tmp_path / "back" / "-rf").stat().st_mode & 0o111


def test_targets_are_those_of_docker_cp(ks: Call, sandbox: Any, project: Path, tmp_path: Path) -> None:
    sandbox_id = sandbox.sandbox_id
    ks("exec", sandbox_id, "mkdir", "-p", "/tmp/there")
    for source, target in (
        (project, "/tmp/there"),  # a folder into a folder
        (f"{project}/.", "/tmp/there"),  # what is in the folder
        (project / "-rf", "/tmp/there"),  # a file into a folder
        (project / "-rf", "/tmp/there/renamed"),
        (project / "-rf", ""),  # the home
        (project / "-rf", "~/deep/er"),
    ):
        assert ks("cp", source, f"{sandbox_id}:{target}").code == 0
    for path in ("there/project/-rf", "there/-rf", "there/renamed", "../home/user/-rf", "../home/user/deep/er"):
        assert ks("exec", sandbox_id, "cat", f"/tmp/{path}").out == "b"
    refused = ks("cp", project / "-rf", f"{sandbox_id}:/tmp/none/")
    assert (refused.code, refused.err) == (1, "kruise-agents: there is no folder /tmp/none/ in the sandbox\n")

    (tmp_path / "here").mkdir()
    for source, target in (
        ("/tmp/there/project", "here"),
        ("/tmp/there/project/.", "here"),
        ("/tmp/there/renamed", "here"),
        ("/tmp/there/renamed", "here/again"),
    ):
        assert ks("cp", f"{sandbox_id}:{source}", tmp_path / target).code == 0
    for name in ("project/-rf", "-rf", "renamed", "again"):
        assert (tmp_path / "here" / name).read_text() == "b"
    missing = ks("cp", f"{sandbox_id}:/tmp/there/renamed", f"{tmp_path}/none/")
    assert "there is no folder" in missing.err


def test_a_file_here_is_replaced_with_force_only(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    sandbox.files.write("/tmp/new", "new")
    mine, other = tmp_path / "mine", tmp_path / "other"
    other.write_text("other")
    mine.symlink_to(other)
    refused = ks("cp", f"{sandbox.sandbox_id}:/tmp/new", mine)
    assert (refused.code, refused.err) == (1, f"kruise-agents: {mine} exists; --force replaces files\n")
    assert ks("cp", "--force", f"{sandbox.sandbox_id}:/tmp/new", mine).code == 0
    assert (mine.read_text(), mine.is_symlink(), other.read_text()) == ("new", False, "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]


def test_a_link_that_is_named_is_followed(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    script = (
        "mkdir -p /tmp/real/a; echo x > /tmp/real/a/f; ln -s f /tmp/real/a/g; ln -sfT real /tmp/link; ls /tmp/link/"
    )
    assert ks("exec", sandbox.sandbox_id, "bash", "-c", script).code == 0
    for source, target in (("/tmp/link", tmp_path), ("/tmp/link/a/g", tmp_path / "file")):
        assert ks("cp", f"{sandbox.sandbox_id}:{source}", target).err.startswith("copied 1 file")
    assert below(tmp_path) == {"file": "x\n", "link/a/f": "x\n", "link/a/g": "-> f"}


def test_devices_are_no_files(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    for source, target in ((f"{sandbox.sandbox_id}:/dev/zero", tmp_path), ("/dev/zero", f"{sandbox.sandbox_id}:")):
        done = ks("cp", source, target)
        assert (done.code, done.err) == (
            1,
            f"kruise-agents: {source.partition(':')[2] or source} is neither file nor folder\n",
        )


def test_what_is_missing_is_named(ks: Call, sandbox: Any, tmp_path: Path) -> None:
    assert "/nosuch" in ks("cp", f"{sandbox.sandbox_id}:/nosuch", tmp_path).err
    missing = ks("cp", tmp_path / "nosuch", f"{sandbox.sandbox_id}:")
    assert (missing.code, missing.err) == (1, f"kruise-agents: {tmp_path}/nosuch does not exist\n")


def test_a_big_file_does_not_fill_the_memory(program: Program, sandbox: Any, tmp_path: Path) -> None:
    peaks = []
    here, there = tmp_path / "file", f"{sandbox.sandbox_id}:/tmp/file"
    for size in (1000, BIG):
        here.write_bytes(os.urandom(1000) * (size // 1000))
        for way in ((here, there), (there, tmp_path / f"back-{size}")):
            done = program("cp", "-q", *way, prelude=TELL_PEAK, stderr=subprocess.PIPE, text=True)
            peaks.append(int(done.communicate(timeout=60)[1]) * 1024)
            assert done.returncode == 0
        assert filecmp.cmp(here, tmp_path / f"back-{size}", shallow=False)
    small_up, small_down, big_up, big_down = peaks
    assert big_up - small_up < BIG / 2
    assert big_down - small_down < BIG / 2


@dataclass
class Entry:
    """The facts that a sandbox tells of a file; envd itself never tells such facts."""

    name: str
    type: FileType = FileType.FILE
    path: str = "/root"
    size: int = 3
    mode: int = 0o644
    symlink_target: str | None = None


class Hostile:
    """The files of a sandbox that lists what it likes."""

    def __init__(self, tree: dict[str, list[Entry]], fail: bool = False) -> None:
        self.files = self
        self._tree = tree
        self._fail = fail

    def get_info(self, path: str) -> Entry:
        return Entry("root", FileType.DIR if path in self._tree else FileType.FILE)

    def list(self, path: str) -> list[Entry]:
        return self._tree[path]

    def read(self, path: str, format: str) -> Iterator[bytes]:
        yield b"new"
        if self._fail:
            raise ConnectionError("cut")


class Uncounted:
    def expect(self, size: int) -> None: ...

    def begin(self, name: str) -> None: ...

    def advance(self, size: int) -> None: ...


def download(hostile: Hostile, target: Path, force: bool = False) -> list[str]:
    return Download(hostile, None, Uncounted(), force=force).copy("/root", str(target))


@pytest.mark.parametrize("kind", [FileType.FILE, FileType.DIR])
@pytest.mark.parametrize("name", ["..", ".", "", "/etc/x", "../x", "a/../../x", "a/b", "x\0y", "/"])
def test_a_name_that_is_not_one_name_is_refused(name: str, kind: FileType, tmp_path: Path) -> None:
    with pytest.raises(SandboxCommandError, match="which is no name of a file"):
        download(Hostile({"/root": [Entry(name, kind)]}), tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link_that_the_sandbox_sent(tmp_path: Path, force: bool) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("mine")
    link = Entry("x", FileType.DIR, symlink_target=f"{tmp_path}/outside")
    hostile = Hostile({"/root": [link, Entry("x", FileType.DIR)], "/root/x": [Entry("file")]})
    assert download(hostile, tmp_path / "target", force) == [
        f"x: a symbolic link out of the folder, to {tmp_path}/outside"
    ]
    assert (tmp_path / "outside" / "file").read_text() == "mine"
    assert (tmp_path / "target" / "x" / "file").read_text() == "new"


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link_that_is_in_the_target(tmp_path: Path, force: bool) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "root").mkdir()
    (tmp_path / "target" / "root" / "x").symlink_to(tmp_path / "outside")
    hostile = Hostile({"/root": [Entry("x", FileType.DIR)], "/root/x": [Entry("file")]})
    with pytest.raises(SandboxCommandError, match="root/x cannot be used as a folder"):
        download(hostile, tmp_path / "target", force)
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("kind", [FileType.FILE, FileType.DIR])
def test_a_link_in_the_target_that_has_the_name_of_the_source_is_not_followed(kind: FileType, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "root").symlink_to(tmp_path / "outside")
    hostile = Hostile({"/root": [Entry("file")]} if kind is FileType.DIR else {})
    with pytest.raises(SandboxCommandError, match=r"target/root (is a symbolic link, which a copy does not|exists)"):
        download(hostile, tmp_path / "target")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc", "/root/../etc", "/rootx/y", "../..", "/"])
def test_links_lead_nowhere_outside(target: str, tmp_path: Path) -> None:
    entries = [Entry("link", symlink_target=target), Entry("sub", FileType.DIR)]
    hostile = Hostile({"/root": entries, "/root/sub": [Entry("up", symlink_target="/root/file")]})
    (line,) = download(hostile, tmp_path / "target")
    assert line.startswith("link: a symbolic link out of the folder")
    assert [path.name for path in tmp_path.rglob("*") if path.is_symlink()] == ["up"]
    assert (tmp_path / "target" / "sub" / "up").readlink() == Path("../file")


@pytest.mark.parametrize("kind", [FileType.FILE, FileType.DIR])
def test_two_names_of_one_file_do_not_replace_each_other(kind: FileType, tmp_path: Path) -> None:
    """A file system may take two names for one. Here the sandbox lists one name twice."""
    hostile = Hostile({"/root": [Entry("a", kind), Entry("a", kind)], "/root/a": []})
    with pytest.raises(SandboxCommandError, match="is here the same file as another one of the sandbox"):
        download(hostile, tmp_path / "target", force=True)


def test_bits_for_other_users_identities_are_not_taken_over(tmp_path: Path) -> None:
    download(Hostile({"/root": [Entry("suid", mode=0o106777)]}), tmp_path / "target")
    assert oct((tmp_path / "target" / "suid").stat().st_mode & 0o7000) == "0o0"


@pytest.mark.parametrize("there", [False, True])
def test_a_copy_that_is_cut_leaves_no_half_file(there: bool, tmp_path: Path) -> None:
    target = tmp_path / "file"
    if there:
        target.write_text("mine")
    with pytest.raises(ConnectionError):
        download(Hostile({}, fail=True), target, force=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == (["mine"] if there else [])


def test_names_of_a_sandbox_are_shown_without_control_characters(tmp_path: Path) -> None:
    hostile = Hostile({"/root": [Entry("\x1b[2J"), Entry("\x1b[2J")]})
    with pytest.raises(SandboxCommandError) as error:
        download(hostile, tmp_path / "target")
    assert re.search(r"\\x1b\[2J", str(error.value))
    assert "\x1b" not in str(error.value)


def test_a_name_here_that_is_not_utf8_stops_the_copy_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
    with pytest.raises(SandboxCommandError, match=r"udcff' cannot be copied: its name, or .*, is not UTF-8"):
        survey(tmp_path)


def test_a_link_here_to_a_name_that_is_not_utf8_stops_the_copy(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(os.fsdecode(b"\xff"))
    with pytest.raises(SandboxCommandError, match=r"link' cannot be copied"):
        survey(tmp_path)


def test_a_folder_here_that_cannot_be_read_stops_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "closed":  # root may read every folder, so permissions cannot do it
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(PermissionError):
        survey(tmp_path)
