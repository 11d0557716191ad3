"""Watching folders: which events, in which order, and none lost or invented."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import InvalidArgumentException, NotFoundException, Sandbox, SandboxException
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType

from kruise_agents.sandbox.envd.watch.source import SharedInotify

Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def home(served_envd: Any) -> Path:
    return served_envd.home


class Watched:
    """A polled watcher and its events."""

    def __init__(self, sandbox: Sandbox, path: str, **options: Any) -> None:
        self._handle = sandbox.files.watch_dir(path, **options)

    def events(self) -> list[tuple[str, str]]:
        return [(event.type.name, event.name) for event in self._handle.get_new_events()]

    def stop(self) -> None:
        with contextlib.suppress(NotFoundException):  # a test has done it already
            self._handle.stop()


@pytest.fixture
def watch(sandbox: Sandbox, home: Path) -> Iterator[Callable[..., Watched]]:
    opened: list[Watched] = []

    def watch(path: str = "w", **options: Any) -> Watched:
        (home / "w").mkdir(exist_ok=True)
        opened.append(Watched(sandbox, path, **options))
        return opened[-1]

    yield watch
    for one in opened:
        one.stop()


def replace(folder: Path) -> None:
    (folder / "b").write_text("x")
    os.replace(folder / "b", folder / "a")  # noqa: PTH105 - a plain system call


def append(folder: Path) -> None:
    with (folder / "a").open("a") as file:
        file.write("y")


ACTIONS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], list[tuple[str, str]]]] = {
    "write a new file": (lambda w: None, lambda w: (w / "a").write_text("x"), [("CREATE", "a"), ("WRITE", "a")]),
    "make an empty file": (lambda w: None, lambda w: (w / "a").touch(), [("CREATE", "a")]),
    "append": (lambda w: (w / "a").write_text("x"), append, [("WRITE", "a")]),
    "touch": (lambda w: (w / "a").touch(), lambda w: os.utime(w / "a"), [("CHMOD", "a")]),
    "chmod": (lambda w: (w / "a").touch(), lambda w: (w / "a").chmod(0o600), [("CHMOD", "a")]),
    "chown": (lambda w: (w / "a").touch(), lambda w: os.chown(w / "a", os.getuid(), -1), [("CHMOD", "a")]),
    "set an attribute": (
        lambda w: (w / "a").touch(),
        lambda w: os.setxattr(w / "a", "user.a", b"1"),
        [("CHMOD", "a")],
    ),
    "rename": (
        lambda w: (w / "a").touch(),
        lambda w: (w / "a").rename(w / "b"),
        [("RENAME", "a"), ("CREATE", "b")],
    ),
    "replace": (
        lambda w: (w / "a").touch(),
        replace,
        [("CREATE", "b"), ("WRITE", "b"), ("RENAME", "b"), ("CREATE", "a")],
    ),
    "move in": (
        lambda w: (w.parent / "out").touch(),
        lambda w: (w.parent / "out").rename(w / "in"),
        [("CREATE", "in")],
    ),
    "move out": (
        lambda w: (w / "a").touch(),
        lambda w: (w / "a").rename(w.parent / "out"),
        [("RENAME", "a")],
    ),
    "make a folder": (lambda w: None, lambda w: (w / "d").mkdir(), [("CREATE", "d")]),
    "unlink": (lambda w: (w / "a").touch(), lambda w: (w / "a").unlink(), [("REMOVE", "a")]),
    "remove a folder": (lambda w: (w / "d").mkdir(), lambda w: (w / "d").rmdir(), [("REMOVE", "d")]),
    "link": (lambda w: None, lambda w: (w / "l").symlink_to("nowhere"), [("CREATE", "l")]),
    "open and read": (lambda w: (w / "a").write_text("x"), lambda w: (w / "a").read_text(), []),
}


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_each_action_causes(action: str, recursive: bool, home: Path, watch: Callable[..., Watched]) -> None:
    before, act, expected = ACTIONS[action]
    (home / "w").mkdir()
    before(home / "w")
    watched = watch(recursive=recursive)
    act(home / "w")
    assert watched.events() == expected
    assert watched.events() == []


def test_the_sdks_own_calls(sandbox: Sandbox, watch: Callable[..., Watched]) -> None:
    watched = watch()
    sandbox.files.write("w/a", "text")
    assert watched.events() == [("CREATE", "a"), ("CHMOD", "a"), ("WRITE", "a")]
    sandbox.files.write("w/a", "other")
    assert watched.events() == [("WRITE", "a"), ("CHMOD", "a"), ("WRITE", "a")]
    sandbox.files.make_dir("w/d")
    assert watched.events() == [("CREATE", "d"), ("CHMOD", "d")]
    sandbox.files.rename("w/a", "w/b")
    assert watched.events() == [("RENAME", "a"), ("CREATE", "b")]
    sandbox.files.remove("w/b")
    assert watched.events() == [("REMOVE", "b")]


class TestNotRecursive:
    def test_only_direct_children_count(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "w/d").mkdir(parents=True)
        watched = watch()
        (home / "w/d/x").write_text("x")
        assert watched.events() == []


class TestRecursive:
    def test_folders_that_are_there(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "w/a/b").mkdir(parents=True)
        watched = watch(recursive=True)
        (home / "w/a/b/x").write_text("x")
        assert watched.events() == [("CREATE", "a/b/x"), ("WRITE", "a/b/x")]

    def test_folders_that_are_made_later(self, home: Path, watch: Callable[..., Watched]) -> None:
        watched = watch(recursive=True)
        (home / "w/a").mkdir()
        (home / "w/a/x").write_text("x")
        assert watched.events() == [("CREATE", "a"), ("CREATE", "a/x"), ("WRITE", "a/x")]
        (home / "w/a/x").unlink()
        assert watched.events() == [("REMOVE", "a/x")]

    def test_a_whole_tree_at_once(self, home: Path, watch: Callable[..., Watched]) -> None:
        watched = watch(recursive=True)
        (home / "w/a/b/c").mkdir(parents=True)
        (home / "w/a/b/c/x").write_text("x")
        assert watched.events() == [
            ("CREATE", "a"),
            ("CREATE", "a/b"),
            ("CREATE", "a/b/c"),
            ("CREATE", "a/b/c/x"),
            ("WRITE", "a/b/c/x"),
        ]

    def test_a_removed_tree(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "w/a/b").mkdir(parents=True)
        (home / "w/a/b/x").touch()
        watched = watch(recursive=True)
        shutil.rmtree(home / "w/a")
        assert watched.events() == [("REMOVE", "a/b/x"), ("REMOVE", "a/b"), ("REMOVE", "a")]

    def test_a_renamed_folder_goes_on_under_its_new_name(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "w/a/b").mkdir(parents=True)
        (home / "w/other").mkdir()
        watched = watch(recursive=True)
        (home / "w/a").rename(home / "w/other/z")
        (home / "w/other/z/b/x").touch()
        assert watched.events() == [
            ("RENAME", "a"),
            ("CREATE", "other/z"),
            ("CREATE", "other/z/b/x"),
        ]

    def test_a_folder_that_is_renamed_at_once(self, home: Path, watch: Callable[..., Watched]) -> None:
        watched = watch(recursive=True)
        (home / "w/a").mkdir()
        (home / "w/a").rename(home / "w/b")
        (home / "w/a").mkdir()
        (home / "w/b/x").touch()
        (home / "w/a/y").touch()
        events = watched.events()
        assert [event for event in events if "/" not in event[1]] == [
            ("CREATE", "a"),
            ("RENAME", "a"),
            ("CREATE", "b"),
            ("CREATE", "a"),
        ]
        (home / "w/b/later").mkdir()
        (home / "w/a/later").mkdir()
        assert watched.events() == [("CREATE", "b/later"), ("CREATE", "a/later")]

    def test_a_folder_that_leaves_is_followed_no_more(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "w/a/b").mkdir(parents=True)
        watched = watch(recursive=True)
        (home / "w/a").rename(home / "gone")
        (home / "gone/b/x").touch()
        assert watched.events() == [("RENAME", "a")]
        (home / "gone").rename(home / "w/back")
        assert watched.events() == [("CREATE", "back")]
        (home / "w/back/b/y").touch()
        assert watched.events() == [("CREATE", "back/b/y")]

    def test_links_to_folders_are_not_followed(self, home: Path, watch: Callable[..., Watched]) -> None:
        (home / "elsewhere").mkdir()
        watched = watch(recursive=True)
        (home / "w/l").symlink_to(home / "elsewhere")
        (home / "elsewhere/x").touch()
        assert watched.events() == [("CREATE", "l")]

    def test_random_changes_give_a_picture_of_what_is_there(self, home: Path, watch: Callable[..., Watched]) -> None:
        """Apply the events to a set of names, and expect the names that exist."""
        choice = random.Random(4711)
        watched = watch(recursive=True)
        known: set[str] = set()
        for _ in range(60):
            for _ in range(choice.randrange(1, 12)):
                random_change(home / "w", choice)
            for kind, name in watched.events():
                if kind == "CREATE":
                    known.add(name)
                elif kind in ("REMOVE", "RENAME"):
                    known.discard(name)
                    if kind == "RENAME":
                        known = {one for one in known if not one.startswith(name + "/")}
                else:
                    assert name in known or not (home / "w" / name).exists(), f"{kind} of {name}"
            top = {one.name for one in (home / "w").iterdir()}
            assert {name for name in known if "/" not in name} == top


def random_change(root: Path, choice: random.Random) -> None:
    folders = [root, *(one for one in root.rglob("*") if one.is_dir())]
    files = [one for one in root.rglob("*") if one.is_file()]
    name = choice.choice("abcd")
    target = choice.choice(folders) / name
    action = choice.randrange(5)
    if action == 0 and not target.exists():
        target.mkdir()
    elif action == 1 and not target.is_dir():
        target.write_text("x")
    elif action == 2 and files:
        choice.choice(files).unlink()
    elif action == 3 and len(folders) > 1 and not target.exists():
        moved = choice.choice(folders[1:])
        if not target.is_relative_to(moved):
            moved.rename(target)
    elif action == 4 and len(folders) > 1:
        shutil.rmtree(choice.choice(folders[1:]))


def test_ten_thousand_events_in_a_burst(home: Path, watch: Callable[..., Watched]) -> None:
    watched = watch()
    for number in range(5000):
        os.close(os.open(home / "w" / f"f{number}", os.O_CREAT | os.O_WRONLY))
        os.unlink(home / "w" / f"f{number}")  # noqa: PTH108 - a plain system call
    expected = [(kind, f"f{number}") for number in range(5000) for kind in ("CREATE", "REMOVE")]
    assert watched.events() == expected


def test_a_burst_by_many_writers_in_many_new_folders(home: Path, watch: Callable[..., Watched]) -> None:
    watched = watch(recursive=True)

    def write(writer: int) -> None:
        for number in range(20):
            folder = home / "w" / f"{writer}-{number}"
            folder.mkdir()
            for file in range(25):
                (folder / str(file)).write_text("x")

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for writer in writers:
        writer.start()
    events = []
    for writer in writers:
        while writer.is_alive():
            events += watched.events()
        writer.join()
    events += watched.events()
    created = [name for kind, name in events if kind == "CREATE"]
    expected = {f"{writer}-{number}" for writer in range(4) for number in range(20)}
    expected |= {f"{folder}/{file}" for folder in set(expected) for file in range(25)}
    assert len(created) == len(set(created)), "an event came twice"
    assert set(created) == expected
    assert {name for kind, name in events if kind == "WRITE"} == {name for name in expected if "/" in name}


class TestWhatIsToldLate:
    """Several changes that are reported together, when the first names are already out of date."""

    def test_what_was_made_in_a_folder_before_its_rename_is_followed(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()

        def change() -> None:
            (tmp_path / "a/b/c").mkdir(parents=True)
            (tmp_path / "a/b/c/early").touch()
            (tmp_path / "a").rename(tmp_path / "z")

        def later() -> None:
            (tmp_path / "z/b/c/late").touch()

        assert created(tmp_path, change, later) == [["a/b", "z", "z/b/c", "z/b/c/early"], ["z/b/c/late"]]

    def test_what_was_made_in_a_folder_that_is_renamed_at_once_is_told(self, tmp_path: Path) -> None:
        def change() -> None:
            (tmp_path / "a/b").mkdir(parents=True)
            (tmp_path / "a/b/f").touch()
            (tmp_path / "a").rename(tmp_path / "z")

        assert created(tmp_path, change) == [["a", "z", "z/b", "z/b/f"]]

    def test_what_is_renamed_and_then_removed_is_forgotten(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()

        def change() -> None:
            (tmp_path / "a/b").mkdir()
            (tmp_path / "a/b").rename(tmp_path / "a/c")
            (tmp_path / "a/c").rmdir()
            (tmp_path / "a").rename(tmp_path / "z")
            (tmp_path / "z/b").mkdir()

        assert created(tmp_path, change) == [["a/b", "a/c", "z", "z/b"]]


def created(folder: Path, *changes: Callable[[], None]) -> list[list[str]]:
    """Return the names in CREATE events after each change."""

    async def run() -> list[list[str]]:
        source = SharedInotify()
        watch = await source.open(str(folder), recursive=True, describe=None)
        found = []
        for change in changes:
            change()
            source.drain()
            found.append([event["name"] for event in watch.take() if event["type"] == "EVENT_TYPE_CREATE"])
        source.close_all()
        return found

    return asyncio.run(run())


@pytest.mark.slow
class TestALargeTree:
    @pytest.fixture(autouse=True)
    def turns_of_one_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kruise_agents.sandbox.envd.watch.watch._TURN_SECONDS", 0.0)

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for number in range(200):
            (tmp_path / "/".join(f"{number:03}")).mkdir(parents=True)
        return tmp_path

    def test_others_get_their_turn_while_it_is_being_armed(self, tree: Path) -> None:
        async def arm() -> int:
            source = SharedInotify()
            arming = asyncio.create_task(source.open(str(tree), recursive=True, describe=None))
            turns = 0
            while not arming.done():
                turns += 1
                await asyncio.sleep(0)
            source.close_all()
            return turns

        assert asyncio.run(arm()) > 200

    @pytest.mark.parametrize("seed", range(5))
    def test_folders_that_move_meanwhile_are_watched_where_they_are(self, seed: int, tree: Path) -> None:
        chance = random.Random(seed)

        async def arm() -> set[str]:
            source = SharedInotify()
            arming = asyncio.create_task(source.open(str(tree), recursive=True, describe=None))
            while not arming.done():
                move_something(tree, chance)
                await asyncio.sleep(0)
            watch = arming.result()
            source.drain()
            watch.take()
            for folder in folders(tree):
                (folder / "f").touch()
            source.drain()
            found = {event["name"] for event in watch.take()}
            source.close_all()
            return found

        assert asyncio.run(arm()) == {str((folder / "f").relative_to(tree)) for folder in folders(tree)}

    def test_a_client_that_goes_meanwhile_leaves_nothing(self, tree: Path) -> None:
        async def arm() -> int:
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a plain system call
            arming = asyncio.create_task(SharedInotify().open(str(tree), recursive=True, describe=None))
            for _ in range(20):
                await asyncio.sleep(0)
            arming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await arming
            return len(os.listdir("/proc/self/fd")) - before  # noqa: PTH208 - a plain system call

        assert asyncio.run(arm()) == 0


def folders(tree: Path) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk(tree)]


def move_something(tree: Path, chance: random.Random) -> None:
    source, target = chance.sample(folders(tree)[1:], 2)
    with contextlib.suppress(OSError):  # below itself
        source.rename(target / f"moved-{chance.random()}")


def test_the_watched_folder_itself(home: Path, watch: Callable[..., Watched]) -> None:
    (home / "w").mkdir()
    (home / "w/a").touch()
    watched = watch()
    shutil.rmtree(home / "w")
    assert watched.events() == [("REMOVE", "a"), ("REMOVE", ".")]


def test_a_root_that_is_a_link(home: Path, watch: Callable[..., Watched]) -> None:
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    watched = watch("link", recursive=True)
    (home / "real/a").touch()
    assert watched.events() == [("CREATE", "a")]


def test_two_watchers_of_one_folder_see_the_same(home: Path, watch: Callable[..., Watched]) -> None:
    first, second = watch(), watch(recursive=True)
    (home / "w/a").write_text("x")
    assert first.events() == second.events() == [("CREATE", "a"), ("WRITE", "a")]
    first.stop()
    (home / "w/b").mkdir()
    (home / "w/b/c").mkdir()
    assert second.events() == [("CREATE", "b"), ("CREATE", "b/c")]


def test_a_second_watcher_sees_nothing_from_before(home: Path, watch: Callable[..., Watched]) -> None:
    first = watch()
    (home / "w/a").touch()
    second = watch()
    assert second.events() == []
    assert [name for _, name in first.events()] == ["a"]


def test_a_watcher_that_is_gone(sandbox: Sandbox, watch: Callable[..., Watched]) -> None:
    watched = watch()
    watched.stop()
    with pytest.raises((SandboxException, NotFoundException)):
        watched.events()


def rpc(served_envd: Any, method: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{served_envd.url}/filesystem.Filesystem/{method}", json=body)


class TestProtocol:
    def test_entries_come_with_the_events_that_can_have_one(self, served_envd: Any, home: Path) -> None:
        watcher = rpc(served_envd, "CreateWatcher", {"path": ".", "includeEntry": True}).json()["watcherId"]
        (home / "a").write_text("text")
        (home / "b").touch()
        (home / "b").unlink()
        events = rpc(served_envd, "GetWatcherEvents", {"watcherId": watcher}).json()["events"]
        assert [(event["type"], event["name"]) for event in events] == [
            ("EVENT_TYPE_CREATE", "a"),
            ("EVENT_TYPE_WRITE", "a"),
            ("EVENT_TYPE_CREATE", "b"),
            ("EVENT_TYPE_REMOVE", "b"),
        ]
        assert "entry" not in events[-1]
        assert events[1]["entry"]["path"] == str(home / "a")
        assert events[1]["entry"]["size"] == "4"
        rpc(served_envd, "RemoveWatcher", {"watcherId": watcher})

    def test_an_id_begins_with_w(self, served_envd: Any) -> None:
        watcher = rpc(served_envd, "CreateWatcher", {"path": "."}).json()["watcherId"]
        assert watcher.startswith("w")
        assert rpc(served_envd, "RemoveWatcher", {"watcherId": watcher}).json() == {}

    @pytest.mark.parametrize("method", ["GetWatcherEvents", "RemoveWatcher"])
    def test_an_unknown_id(self, method: str, served_envd: Any) -> None:
        answer = rpc(served_envd, method, {"watcherId": "wnone"})
        assert (answer.status_code, answer.json()) == (
            404,
            {"code": "not_found", "message": "watcher with id wnone not found"},
        )

    def test_what_cannot_be_watched(self, served_envd: Any, home: Path, sandbox: Sandbox) -> None:
        (home / "file").touch()
        missing = rpc(served_envd, "CreateWatcher", {"path": "none"})
        assert missing.json()["code"] == "not_found"
        assert missing.json()["message"].startswith(f"path {home}/none not found: ")
        file = rpc(served_envd, "CreateWatcher", {"path": "file"})
        assert file.json()["code"] == "invalid_argument"
        assert file.json()["message"].startswith(f"path {home}/file not a directory: ")
        with pytest.raises(NotFoundException):
            sandbox.files.watch_dir("none")
        with pytest.raises((InvalidArgumentException, SandboxException)):
            sandbox.files.watch_dir("file")

    def test_a_network_file_system_must_be_allowed(self, served_envd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from kruise_agents.sandbox.envd.watch import service

        monkeypatch.setattr(service, "_file_system", lambda path: 0x6969)
        refused = rpc(served_envd, "CreateWatcher", {"path": "."})
        assert refused.json()["message"].startswith("cannot watch path on network filesystem: ")
        allowed = rpc(served_envd, "CreateWatcher", {"path": ".", "allowNetworkMounts": True})
        assert allowed.status_code == 200
        rpc(served_envd, "RemoveWatcher", allowed.json())

    def test_the_type_of_a_file_system_is_known(self) -> None:
        from kruise_agents.sandbox.envd.watch import service

        assert service._file_system("/proc") == 0x9FA0

    def test_the_instance_goes_with_the_last_watcher(self, served_envd: Any, home: Path) -> None:
        def instances() -> int:
            found = 0
            for one in Path("/proc/self/fd").iterdir():
                try:
                    found += one.readlink().name == "anon_inode:inotify" or "inotify" in str(one.readlink())
                except OSError:
                    continue
            return found

        before = instances()
        watchers = [rpc(served_envd, "CreateWatcher", {"path": "."}).json() for _ in range(3)]
        assert instances() == before + 1
        for watcher in watchers:
            rpc(served_envd, "RemoveWatcher", watcher)
        assert instances() == before

    def test_a_limit_of_the_system_is_named(self, served_envd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        import errno

        from kruise_agents.sandbox.envd.watch import inotify

        def full(*_: object, **__: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(inotify.Inotify, "add", full)
            refused = rpc(served_envd, "CreateWatcher", {"path": "."})
        assert refused.json()["code"] == "resource_exhausted"
        assert "max_user_watches" in refused.json()["message"]
        again = rpc(served_envd, "CreateWatcher", {"path": "."})
        rpc(served_envd, "RemoveWatcher", again.json())

    def test_lost_events_are_an_error(self, served_envd: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from kruise_agents.sandbox.envd.watch import watch

        monkeypatch.setattr(watch, "MAX_WAITING", 2)
        watcher = rpc(served_envd, "CreateWatcher", {"path": "."}).json()
        for name in "abc":
            (home / name).mkdir()
        assert len(rpc(served_envd, "GetWatcherEvents", watcher).json()["events"]) == 2
        lost = rpc(served_envd, "GetWatcherEvents", watcher).json()
        assert lost["code"] == "internal"
        rpc(served_envd, "RemoveWatcher", watcher)


class TestStream:
    def test_events_arrive_as_they_happen(self, served_envd: Any, home: Path) -> None:
        async def follow() -> list[tuple[str, str]]:
            sandbox = served_envd.async_sandbox()
            seen: list[tuple[str, str]] = []
            written, removed = asyncio.Event(), asyncio.Event()

            def on_event(event: Any) -> None:
                seen.append((event.type.name, event.name))
                if event.type is FilesystemEventType.WRITE:
                    written.set()
                elif event.type is FilesystemEventType.REMOVE:
                    removed.set()

            handle = await sandbox.files.watch_dir(".", on_event=on_event, recursive=True)
            (home / "d").mkdir()
            (home / "d/x").write_text("x")
            async with asyncio.timeout(10):
                await written.wait()
                (home / "d/x").unlink()
                await removed.wait()
            await handle.stop()
            return seen

        assert asyncio.run(follow()) == [("CREATE", "d"), ("CREATE", "d/x"), ("WRITE", "d/x"), ("REMOVE", "d/x")]

    def test_its_time_out_ends_it(self, served_envd: Any) -> None:
        async def follow() -> Exception | None:
            ended = asyncio.get_running_loop().create_future()
            files = served_envd.async_sandbox().files
            # From Python 3.12 on, connectrpc cancels the task that began the stream when the time is over, even
            # where another one reads by now; so the stream begins in a task of its own.
            watch = files.watch_dir(".", on_event=lambda event: None, on_exit=ended.set_result, timeout=1)
            await asyncio.create_task(watch)
            async with asyncio.timeout(10):
                return await ended

        assert "timeout" in str(asyncio.run(follow()))

    @pytest.mark.xfail(
        sys.version_info >= (3, 12),
        reason="connectrpc cancels the caller's task, also without the patch: docs/reference/compatibility.md",
        raises=asyncio.CancelledError,
    )
    def test_its_time_out_leaves_the_caller_alone(self, served_envd: Any) -> None:
        async def follow() -> None:
            ended = asyncio.Event()
            files = served_envd.async_sandbox().files
            await files.watch_dir(".", on_event=lambda event: None, on_exit=lambda _: ended.set(), timeout=1)
            async with asyncio.timeout(10):
                await ended.wait()

        asyncio.run(follow())

    def test_a_client_that_goes_leaves_nothing(self, served_envd: Any, wait_until: Wait) -> None:
        source = served_envd.envd._filesystem._watches._source
        body = b'{"path":"."}'
        headers = {"Content-Type": "application/connect+json", "Keepalive-Ping-Interval": "1"}
        url = f"{served_envd.url}/filesystem.Filesystem/WatchDir"
        envelope = b"\0" + len(body).to_bytes(4, "big") + body
        with httpx.Client() as client, client.stream("POST", url, content=envelope, headers=headers) as answer:
            received = b""
            for piece in answer.iter_raw():
                received += piece
                if b"keepalive" in received:
                    assert source._watches
                    break
            assert b'{"start":{}}' in received
        wait_until(lambda: not source._watches)
