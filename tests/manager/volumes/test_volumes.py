"""Volumes: shared between sandboxes, longer-lived than sandboxes, and without a way out of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import shutil
import socket
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import AsyncVolume, Volume
from e2b.exceptions import NotFoundException
from e2b_code_interpreter import Sandbox

import kruise_agents
from kruise_agents.manager.runtime import ProcessRuntime
from kruise_agents.manager.runtime.files.identities import FileOwners
from kruise_agents.manager.state.database import Database
from kruise_agents.manager.state.reserve import NoSpaceError
from kruise_agents.manager.state.secret import StateSecret
from kruise_agents.manager.volumes import Entry, OutsideError, Volumes, VolumeTree
from kruise_agents.manager.volumes.tree import Attributes
from support.managers import (
    RunningManager,
    reads_volumes,
    running_manager,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("patched")
needs_mounts = pytest.mark.needs("namespaces")
needs_contents = pytest.mark.needs("contents of volumes")
Start = Callable[..., Sandbox]


@pytest.fixture
def options(manager: RunningManager) -> dict[str, Any]:
    return {"domain": manager.domain, "api_key": manager.api_key}


@pytest.fixture
def start(options: dict[str, Any]) -> Iterator[Start]:
    """Starts sandboxes, and ends them after the test."""
    with contextlib.ExitStack() as started:
        yield lambda **more: started.enter_context(Sandbox.create(**{"template": "base", **options, **more}))


@pytest.fixture
def volume(options: dict[str, Any], api: httpx.Client) -> Iterator[Volume]:
    made = Volume.create(f"v-{uuid.uuid4().hex[:8]}", **options)
    yield made
    for sandbox in api.get("/v2/sandboxes").json():
        if any(mount["name"] == made.name for mount in sandbox["volumeMounts"]):
            api.delete(f"/sandboxes/{sandbox['sandboxID']}")
    Volume.destroy(made.volume_id, **options)


def test_a_volume_is_made_found_and_destroyed(options: dict[str, Any]) -> None:
    name = f"v-{uuid.uuid4().hex[:8]}"
    made = Volume.create(name, **options)
    assert made.volume_id in {one.volume_id for one in Volume.list(**options)}
    found = Volume.connect(made.volume_id, **options)
    assert (found.name, found.token) == (name, made.token)
    with pytest.raises(Exception, match="already exists"):
        Volume.create(name, **options)
    assert Volume.destroy(made.volume_id, **options) is True
    assert Volume.destroy(made.volume_id, **options) is False
    with pytest.raises(NotFoundException):
        Volume.get_info(made.volume_id, **options)


@needs_contents
def test_files_of_a_volume_without_a_sandbox(volume: Volume) -> None:
    content = os.urandom(3 * 1024 * 1024)
    written = volume.write_file("/a.bin", content)
    assert (written.name, written.path, written.type, written.size) == ("a.bin", "/a.bin", "file", len(content))
    assert (written.uid, written.gid, written.mode & 0o777) == (1000, 1000, 0o644)
    assert volume.read_file("/a.bin", format="bytes") == content
    assert b"".join(volume.read_file("a.bin", format="stream")) == content
    volume.write_file("/a.bin", io.BytesIO(b"shorter"))
    assert volume.read_file("/a.bin") == "shorter"
    with pytest.raises(NotFoundException):
        volume.write_file("/no/such/folder", "x")
    assert volume.write_file("/deep/er/b", "é", force=True).path == "/deep/er/b"
    volume.make_dir("/empty", mode=0o700)
    assert [one.path for one in volume.list("/")] == ["/a.bin", "/deep", "/empty"]
    assert [one.path for one in volume.list("/", depth=3)] == ["/a.bin", "/deep", "/deep/er", "/deep/er/b", "/empty"]
    assert volume.get_info("/empty").mode & 0o7777 == 0o700
    assert volume.get_info("/").type == "directory"
    assert volume.update_metadata("/a.bin", mode=0o4755).mode & 0o7777 == 0o755
    volume.write_file("/a.bin", "new")
    assert volume.get_info("/a.bin").mode & 0o7777 == 0o755
    volume.remove("/deep")
    assert not volume.exists("/deep/er/b")
    with pytest.raises(NotFoundException):
        volume.remove("/deep")
    for refused in (
        lambda: volume.remove("/"),
        lambda: volume.write_file("/empty", "x"),
        lambda: volume.read_file("/"),
    ):
        with pytest.raises(Exception, match="400"):
            refused()


@needs_contents
def test_the_async_sdk_has_volumes_too(options: dict[str, Any], volume: Volume) -> None:
    async def walk() -> tuple[str, list[str]]:
        found = await AsyncVolume.connect(volume.volume_id, **options)
        await found.write_file("/x", "text")
        return await found.read_file("/x"), [entry.name for entry in await found.list("/")]

    assert asyncio.run(walk()) == ("text", ["x"])


@needs_mounts
def test_two_sandboxes_share_a_volume_that_outlives_them(volume: Volume, start: Start) -> None:
    first = start(volume_mounts={"/home/user/shared": volume})
    second = start(volume_mounts={"/mnt/there": volume.name})
    first.commands.run("echo one > shared/one && mkdir -m 700 shared/mine && touch shared/mine/x")
    assert second.commands.run("cat /mnt/there/one; stat -c %U /mnt/there /mnt/there/one").stdout == "one\nuser\nuser\n"
    second.commands.run("ls /mnt/there/mine && echo two > /mnt/there/two")
    assert first.files.read("shared/two") == "two\n"
    assert [(one["name"], one["path"]) for one in second.get_info().volume_mounts] == [(volume.name, "/mnt/there")]
    with pytest.raises(Exception, match="is mounted in sandboxes"):
        Volume.destroy(volume.volume_id, **first.connection_config.get_api_params())
    first.kill()
    second.kill()
    third = start(volume_mounts={"/home/user/again": volume})
    assert third.commands.run("echo more >> again/two; cat again/two; ls again").stdout == "two\nmore\nmine\none\ntwo\n"


@needs_mounts
@needs_contents
def test_a_sandbox_and_the_api_see_the_same_files(volume: Volume, start: Start) -> None:
    sandbox = start(volume_mounts={"/home/user/v": volume})
    sandbox.files.write("v/ours", "1")
    assert volume.read_file("/ours") == "1"
    volume.write_file("/theirs", "2")
    assert sandbox.commands.run("echo 3 >> v/theirs; cat v/theirs").stdout == "23\n"


def test_contents_are_there_or_refused_by_name(volume: Volume) -> None:
    refused = pytest.raises(Exception, match="400: contents of volumes: not supported")
    with refused if not reads_volumes() else contextlib.nullcontext():
        assert volume.list("/") == []


@needs_contents
@needs_mounts
@pytest.mark.needs("several users")
def test_files_belong_to_the_same_users_everywhere(volume: Volume, start: Start) -> None:
    sandbox = start(volume_mounts={"/mnt/v": volume})
    sandbox.commands.run("touch /mnt/v/roots && chmod 600 /mnt/v/roots", user="root")
    assert volume.get_info("/roots").uid == 0
    volume.write_file("/ours", "x", uid=0, gid=0, mode=0o640)
    assert sandbox.commands.run("stat -c '%U %G %a' /mnt/v/ours", user="root").stdout == "root root 640\n"
    volume.update_metadata("/ours", uid=1000)
    assert sandbox.commands.run("stat -c %U /mnt/v/ours", user="root").stdout == "user\n"
    with pytest.raises(Exception, match="uid must be 0 to 65534"):
        volume.update_metadata("/ours", uid=70_000)


@needs_contents
@needs_mounts
def test_a_sandbox_keeps_its_volumes_in_pauses_forks_and_without_the_manager(tmp_path: Path) -> None:
    with running_manager(tmp_path, "--keep") as manager:
        options: Any = {"domain": manager.domain, "api_key": manager.api_key}
        volume = Volume.create("data", **options)
        sandbox = Sandbox.create("base", volume_mounts={"/home/user/data": volume}, **options)
        sandbox.commands.run("echo kept > data/file")
        sandbox.pause(memory=False)
        sandbox = Sandbox.connect(sandbox.sandbox_id, **options)
        assert sandbox.files.read("data/file") == "kept\n"
        (fork,) = sandbox.fork()
        fork.sandbox.commands.run("echo forked >> data/file") if hasattr(fork, "sandbox") else fork.commands.run(
            "echo forked >> data/file"
        )
        assert sandbox.files.read("data/file") == "kept\nforked\n"
        snapshot = sandbox.create_snapshot().snapshot_id
        with Sandbox.create(snapshot, **options) as alone:
            assert alone.commands.run("ls data").stdout == ""
    with running_manager(tmp_path) as manager:
        options = {"domain": manager.domain, "api_key": manager.api_key}
        sandbox = Sandbox.connect(sandbox.sandbox_id, **options)
        assert sandbox.files.read("data/file") == "kept\nforked\n"
        assert sandbox.get_info().volume_mounts == [{"name": "data", "path": "/home/user/data"}]
        (found,) = Volume.list(**options)
        assert Volume.connect(found.volume_id, **options).read_file("file") == "kept\nforked\n"


@needs_mounts
def test_a_snapshot_with_a_link_where_a_volume_goes_makes_no_folder_outside(
    volume: Volume, start: Start, manager: RunningManager
) -> None:
    victim = manager.state_dir / "victim"
    victim.mkdir()
    sandbox = start()
    sandbox.commands.run(f"ln -s ../../../../../oldroot{victim} way; ln -s ../..{victim} other; ln -s {victim} third")
    snapshot = sandbox.create_snapshot().snapshot_id
    for link in ("way", "other", "third"):
        with pytest.raises(Exception, match="could not be started"):
            start(template=snapshot, volume_mounts={f"/home/user/{link}/inner": volume})
    assert list(victim.iterdir()) == []


PYTHON_FOLDERS = sorted({sys.prefix, sys.base_prefix, str(Path(kruise_agents.__file__).parent)})


@needs_mounts
@pytest.mark.parametrize("folder", PYTHON_FOLDERS)
@pytest.mark.parametrize("place", ["there", "above", "below"])
def test_no_volume_goes_where_the_managers_python_is(
    folder: str, place: str, volume: Volume, api: httpx.Client
) -> None:
    """Such a volume would have modules in place of those that a sandbox's program imports."""
    above = f"/{'/'.join(Path(folder).parts[1:3])}"
    path = {"there": folder, "above": above, "below": f"{folder}/lib"}[place]
    answer = api.post(
        "/v2/sandboxes", json={"templateID": "base", "volumeMounts": [{"name": volume.name, "path": path}]}
    )
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        f"volumeMounts[0].path is invalid: '{path}' is a place that the sandbox needs for itself",
    )


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        ({"name": "", "path": "/v"}, "volumeMounts[0].name cannot be empty"),
        ({"path": "v"}, "is not absolute"),
        ({"path": "/v/../etc"}, "is not clean"),
        ({"path": "/v/"}, "is not clean"),
        ({"path": "/"}, "is not clean"),
        ({"path": "/etc/ssl"}, "is a place that the sandbox needs"),
        ({"path": "/home/user"}, "is a place that the sandbox needs"),
        ({"path": "/" + "x" * 300}, "is too long"),
    ],
)
def test_mounts_that_cannot_be(mount: dict[str, str], text: str, volume: Volume, api: httpx.Client) -> None:
    body = {"templateID": "base", "volumeMounts": [{"name": volume.name, **mount}]}
    answer = api.post("/v2/sandboxes", json=body)
    assert answer.status_code == 400
    assert text in answer.json()["message"]


def test_mounts_must_be_apart_and_of_volumes_that_are_there(volume: Volume, api: httpx.Client) -> None:
    def refused(*mounts: tuple[str, str]) -> tuple[int, str]:
        body = {"templateID": "base", "volumeMounts": [{"name": name, "path": path} for name, path in mounts]}
        answer = api.post("/v2/sandboxes", json=body)
        return answer.status_code, answer.json()["message"]

    assert refused((volume.name, "/a"), (volume.name, "/a")) == (400, 'volumeMounts[1].path "/a" is duplicated')
    assert "lie in each other" in refused((volume.name, "/a"), (volume.name, "/a/b"))[1]
    assert refused(("nowhere", "/a")) == (404, "volumeMounts[0]: volume 'nowhere' not found")


@needs_contents
def test_another_keys_volume_is_not_there(volume: Volume, api: httpx.Client, options: dict[str, Any]) -> None:
    made = api.post("/api-keys", json={"name": "k", "teamName": "red"}).json()
    theirs = {**options, "api_key": made["key"]}
    assert Volume.list(**theirs) == []
    assert Volume.destroy(volume.volume_id, **theirs) is False
    with pytest.raises(Exception, match="404"):
        Sandbox.create("base", volume_mounts={"/mnt/v": volume.name}, **theirs)
    own = Volume.create(volume.name, **theirs)
    own.write_file("/x", "theirs")
    api.delete(f"/api-keys/{made['id']}")
    # The admin has it now, under a name that is free, and the old token opens it no more.
    (inherited,) = [one for one in Volume.list(**options) if one.volume_id == own.volume_id]
    assert inherited.name == f"{volume.name}-{own.volume_id[-6:]}"
    with pytest.raises(Exception, match="401"):
        own.read_file("/x")
    assert Volume.connect(own.volume_id, **options).read_file("/x") == "theirs"
    Volume.destroy(own.volume_id, **options)


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer wrong", "Basic {}", "{}", "Bearer é"])
def test_contents_need_the_volumes_own_token(authorization: str | None, volume: Volume, api: httpx.Client) -> None:
    given = (authorization or "").format(volume.token).encode()
    headers = {"Authorization": given} if authorization is not None else {}
    for volume_id in (volume.volume_id, "v0"):
        path = f"/volumecontent/{volume_id}/path"
        answers = [api.request(method, path, params={"path": "/"}, headers=headers) for method in ("GET", "DELETE")]  # type: ignore[arg-type]  # httpx takes bytes as values
        assert [answer.status_code for answer in answers] == [401, 401]
        assert str(volume.token) not in answers[0].text


@pytest.fixture
def tree(tmp_path: Path) -> VolumeTree:
    for name in ("volume", "staging", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    return VolumeTree(tmp_path / "volume", tmp_path / "staging", FileOwners())


ESCAPES = {
    "to a file": "../outside/secret",
    "to a folder": "../outside",
    "absolute": "{}/outside/secret",
    "absolute to a folder": "{}/outside",
    "through proc": "/proc/self/cwd",
    "through the process's root": "/proc/self/root{}/outside",
    "up and down": "folder/../../outside",
}


def reads(tree: VolumeTree, path: str) -> None:
    os.close(tree.read(path))


@pytest.mark.parametrize("target", ESCAPES.values(), ids=ESCAPES)
def test_no_link_leads_out_of_a_volume(target: str, tree: VolumeTree, tmp_path: Path) -> None:
    (tree.root / "folder").mkdir()
    (tree.root / "link").symlink_to(target.format(tmp_path))
    draft = tmp_path / "staging/draft"
    for path in ("link", "link/secret", "link/new"):
        draft.write_text("mine")
        attempts: list[Callable[[], object]] = [
            partial(reads, tree, path),
            partial(tree.entries, path, 1),
        ]
        if path != "link":
            attempts += [
                partial(tree.entry, path),
                partial(tree.make_folder, path, Attributes(), parents=True),
                partial(tree.place, draft, path, Attributes(), parents=True),
                partial(tree.change, path, Attributes(mode=0o777)),
                partial(tree.remove, path, lambda _: True),
            ]
        for attempt in attempts:
            with pytest.raises((OSError, OutsideError)):
                attempt()
    assert (tmp_path / "outside/secret").read_text() == "secret"
    assert [one.name for one in (tmp_path / "outside").iterdir()] == ["secret"]
    # The link itself is an entry like others: it is shown, replaced and removed as one.
    assert tree.entry("link").target == target.format(tmp_path)
    tree.place(draft, "link", Attributes(), parents=False)
    assert (tree.root / "link").read_text() == "mine"
    assert not (tree.root / "link").is_symlink()
    for path in ("..", "../outside", "a/../../outside", "folder/.."):
        with pytest.raises(OutsideError):
            tree.entry(path)


def test_links_that_are_exchanged_all_the_time_lead_nowhere_either(tree: VolumeTree, tmp_path: Path) -> None:
    (tree.root / "real").mkdir()
    (tree.root / "real/secret").write_text("harmless")
    (tree.root / "trap").symlink_to("../outside")
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for name in ("real", "trap"):
                (tree.root / name).rename(tree.root / "way")
                (tree.root / "way").rename(tree.root / name)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        seen = set()
        for _ in range(3000):
            with contextlib.suppress(OSError):
                descriptor = tree.read("way/secret")
                seen.add(os.read(descriptor, 100))
                os.close(descriptor)
    finally:
        done.set()
        thread.join()
    assert seen <= {b"harmless"}


def test_a_folder_that_is_removed_during_a_listing_has_no_content(
    tree: VolumeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.make_folder("/folder/inner", Attributes(), parents=True)
    look = VolumeTree._entry

    def look_and_remove(self: VolumeTree, folder: int, name: str, path: str) -> Entry:
        entry = look(self, folder, name, path)
        shutil.rmtree(tree.root / name)
        return entry

    monkeypatch.setattr(VolumeTree, "_entry", look_and_remove)
    assert [entry.path for entry in tree.entries("/", 3)] == ["/folder"]


def test_a_volume_without_room_for_its_folder_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    with contextlib.closing(Database(tmp_path / "state.db")) as store:
        volumes = Volumes(tmp_path, store, StateSecret(b"x" * 32), ProcessRuntime(), mounted=tuple, limit=1)
        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(NoSpaceError):
            asyncio.run(volumes.make("name", "owner"))
        monkeypatch.undo()
        row = asyncio.run(volumes.make("name", "owner"))
        assert volumes.all("owner") == [row]
        assert (tmp_path / row.id).is_dir()


def test_the_folder_of_a_volume_is_open_to_all_users_whatever_the_umask(tmp_path: Path) -> None:
    folder, umask = tmp_path / "volumes", os.umask(0o077)
    folder.mkdir()
    try:
        with contextlib.closing(Database(tmp_path / "state.db")) as store:
            volumes = Volumes(folder, store, StateSecret(b"x" * 32), ProcessRuntime(), mounted=tuple, limit=1)
            made = folder / asyncio.run(volumes.make("name", "owner")).id
            assert made.stat().st_mode & 0o777 == 0o755
            made.rmdir()
            volumes.recover()
            assert made.stat().st_mode & 0o777 == 0o755, "the folder was lost"
    finally:
        os.umask(umask)


def test_what_is_no_file_is_not_waited_for(tree: VolumeTree) -> None:
    os.mkfifo(tree.root / "pipe")
    with pytest.raises(OutsideError, match="not a regular file"):
        tree.read("pipe")
    assert tree.entry("pipe").path == "/pipe"


def test_a_hard_link_is_not_written_through(tree: VolumeTree, tmp_path: Path) -> None:
    (tree.root / "one").write_text("old")
    os.link(tree.root / "one", tmp_path / "elsewhere")
    draft = tmp_path / "staging/draft"
    draft.write_text("new")
    tree.place(draft, "one", Attributes(), parents=False)
    assert (tmp_path / "elsewhere").read_text() == "old"


@needs_contents
def test_an_upload_that_is_cut_off_leaves_what_was_there(volume: Volume, manager: RunningManager) -> None:
    volume.write_file("/x", "whole")
    request = (
        f"PUT /kruise/api/volumecontent/{volume.volume_id}/file?path=/x HTTP/1.1\r\nHost: {manager.domain}\r\n"
        f"Authorization: Bearer {volume.token}\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("localhost", manager.port)) as connection:
        connection.sendall(request.encode() + b"y" * 500_000)
    staging = manager.state_dir / "volumes/.staging"
    wait_for(lambda: not list(staging.iterdir()), 20, "the end of the upload")
    assert volume.read_file("/x") == "whole"
