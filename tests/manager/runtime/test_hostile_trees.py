"""Hostile file trees, which give their author no access to the host when a sandbox boots from them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime import BubblewrapRuntime
from kruise_agents.manager.runtime.files.trees import remove_tree, write_file
from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, one_user_because, running_manager

pytestmark = pytest.mark.needs("namespaces")

# A host with a sudo of its own, whether or not this one has it.
WITH_SUDO = """
import pathlib
import kruise_agents.manager.runtime.bwrap.mounts as mounts
mounts._REAL_SUDO = pathlib.Path("/usr/bin/env")
"""
SECRET = "only the host has this"
PRELOADED = r"""
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void begin(void) {
    char name[32];
    snprintf(name, sizeof name, "/tmp/preloaded-%d", getpid());
    fclose(fopen(name, "w"));
}
"""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@pytest.fixture(scope="module", params=["several users", "one user"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    if request.param == "several users" and one_user_because():
        pytest.skip(f"sandboxes have one user: {one_user_because()}")
    prelude = WITH_SUDO + (NO_IDENTITIES if request.param == "one user" else "")
    with running_manager(tmp_path_factory.mktemp("host"), prelude=prelude) as running:
        yield running


@pytest.fixture
def start(host: RunningManager) -> Iterator[Callable[..., Sandbox]]:
    begun: list[Sandbox] = []

    def create(template: str | None = None) -> Sandbox:
        begun.append(Sandbox.create(template, domain=host.domain, api_key=host.api_key))
        return begun[-1]

    with patch_e2b(False):
        yield create
        for sandbox in begun:
            sandbox.kill()


def snapshot_after(sandbox: Sandbox, command: str) -> str:
    sandbox.commands.run(command, user="root")
    return sandbox.create_snapshot().snapshot_id


def test_sudo_of_the_user_is_no_way_to_a_file_of_the_host(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    (tmp_path / "closed").write_text(SECRET)
    local = "/home/user/.local/bin"
    snapshot = snapshot_after(start(), f"ln -sf {tmp_path}/closed {local}/sudo")
    assert SECRET not in start(snapshot).commands.run("cat /usr/bin/env").stdout


def test_sudo_works_where_the_host_has_one(start: Callable[..., Sandbox]) -> None:
    sandbox = start()
    assert sandbox.commands.run("/usr/bin/env id -un").stdout in ("root\n", "user\n")
    assert "kruise_agents" in sandbox.commands.run("cat /usr/bin/env").stdout


def test_no_library_is_loaded_into_the_first_programs(start: Callable[..., Sandbox]) -> None:
    sandbox = start()
    sandbox.files.write("/tmp/begin.c", PRELOADED)
    sandbox.commands.run("gcc -shared -fPIC -o /tmp/begin.so /tmp/begin.c")
    # Where the file cannot be changed, the folder around it can be.
    replace = "mv /etc /etc.old && cp -a /etc.old /etc && echo /tmp/begin.so > /etc/ld.so.preload"
    snapshot = snapshot_after(sandbox, f"(echo /tmp/begin.so > /etc/ld.so.preload) 2>/dev/null || ({replace}) || true")
    again = start(snapshot)
    assert "preloaded" not in again.commands.run("true; ls /tmp").stdout


@pytest.mark.parametrize("place", ["/etc/ssl", "/etc", "/run/kruise-agents"])
def test_links_where_something_is_mounted_make_nothing_on_the_host(
    start: Callable[..., Sandbox], tmp_path: Path, place: str
) -> None:
    snapshot = snapshot_after(start(), f"mv {place} {place}.old && ln -s /oldroot{tmp_path} {place}")
    with pytest.raises(Exception, match="a link is in the way"):
        start(snapshot)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_interpreter_cannot_be_replaced(start: Callable[..., Sandbox], tmp_path: Path) -> None:
    top = f"/{Path(sys.prefix).parts[1]}"
    if top == "/usr":
        pytest.skip("the interpreter lies in /usr")
    sandbox = start()
    sandbox.run_code("1")  # a kernel that is just starting makes its folder again, where that is below `top`
    snapshot = snapshot_after(sandbox, f"mv {top} {top}.old && ln -sT /oldroot{tmp_path} {top}")
    with pytest.raises(Exception, match="a link is in the way"):
        start(snapshot)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_never_follows_links_that_are_exchanged_meanwhile(tmp_path: Path) -> None:
    """A program in a sandbox could do so if it continued itself while the sandbox is stopped."""
    runtime = BubblewrapRuntime()
    runtime.check()
    victim, source = tmp_path / "victim", tmp_path / "source"
    for folder, text in ((victim, SECRET), (source / "a", "its own")):
        folder.mkdir(parents=True)
        for number in range(200):
            (folder / str(number)).write_text(text)
    (source / "b").symlink_to(victim)
    done = threading.Event()
    exchanging = threading.Thread(target=exchange, args=(source / "a", source / "b", done))
    exchanging.start()
    try:
        for number in range(20):
            target = tmp_path / f"copy-{number}"
            with contextlib.suppress(OSError):  # something moved in front of it
                asyncio.run(runtime.copy(source, target))
            copied = [file.read_text() for file in target.rglob("*") if file.is_file() and not file.is_symlink()]
            assert SECRET not in copied
    finally:
        done.set()
        exchanging.join()


def exchange(one: Path, other: Path, done: threading.Event) -> None:
    libc = ctypes.CDLL(None)
    while not done.is_set():
        libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)


def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_file(tmp_path / "file", "x" * 6000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_small_tree_is_removed_without_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    tree = tmp_path / "tree"
    (tree / "folder" / "inner").mkdir(parents=True)
    (tree / "folder" / "link").symlink_to(outside)
    (tree / os.fsdecode(b"\xff")).touch(0)
    monkeypatch.setenv("PATH", "")
    assert remove_tree(tree)
    assert not tree.exists()
    assert remove_tree(tree)
    assert (outside / "kept").exists()


@pytest.mark.live
@pytest.mark.parametrize("kind", ["many", "deep", "link"])
def test_other_trees_are_removed_by_a_program(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    if kind == "link":
        (tmp_path / "kept").mkdir()
        tree.symlink_to(tmp_path / "kept")
    elif kind == "many":
        tree.mkdir()
        for number in range(1000):
            (tree / str(number)).mkdir()
    else:
        make = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')"
        tree.mkdir()
        subprocess.run([sys.executable, "-c", make], cwd=tree, check=True)
    assert remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == (["kept"] if kind == "link" else [])
