"""A client that calls a manager all the time, and knows what must be there after the manager was killed."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from e2b import Volume
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime.files.layout import folder_name

from .managers import RunningManager, wait_for

BACKGROUND = f"sleep 98{os.getpid() % 100_000:05}99"
"""The background programs in sandboxes of this run of the tests."""
_CLIENT = "client-"


@dataclass
class Known:
    """The facts about one sandbox that the client was told."""

    sandbox: Sandbox
    state: str | None = "running"
    """None: an answer was lost, so it may be either."""
    files: list[str] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)


class Busy:
    """A client that calls the manager all the time, and keeps the answers."""

    def __init__(self, manager: RunningManager, seed: int) -> None:
        self.known: dict[str, Known] = {}
        self.volumes: dict[str, list[str]] = {}
        """The names of the files in each volume. A file's content is its name."""
        self.snapshots: set[str] = set()
        self.keys: dict[str, str] = {}
        self.deleted: set[str] = set()
        """The ids of sandboxes, volumes, snapshots and keys whose removal was answered for."""
        self.failures: list[BaseException] = []
        self.answers = 0
        self.name = f"{_CLIENT}{os.getpid()}-{seed}"
        self._manager = manager
        self._options: dict[str, Any] = {"domain": manager.domain, "api_key": manager.api_key}
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def wait_for_answers(self, count: int) -> None:
        enough = self.answers + count
        wait_for(lambda: self.answers >= enough, 60, f"{count} answers; failures: {self.failures}")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._do_something()
                self.answers += 1
            except Exception as error:  # the manager was killed; whatever else went wrong shows in what is found
                self.failures.append(error)
                self._stop.wait(0.05)

    def _do_something(self) -> None:
        running = [known for known in self.known.values() if known.state == "running"]
        paused = [known for known in self.known.values() if known.state == "paused"]
        choices: list[Callable[[], None]] = [self._create] if len(self.known) < 4 else []
        if running:
            one = self._dice.choice(running)
            choices += [lambda: self._write(one), lambda: self._run_command(one), lambda: self._pause(one)]
        if paused:
            two = self._dice.choice(paused)
            choices += [lambda: self._connect(two), lambda: self._kill(two)]
        if running and len(self.snapshots) < 3:
            choices.append(lambda: self._snapshot(self._dice.choice(running)))
        if self.snapshots:
            choices.append(lambda: self._delete_snapshot(self._dice.choice(sorted(self.snapshots))))
        choices.append(self._create_volume if len(self.volumes) < 3 else self._destroy_volume)
        if self.volumes:
            choices.append(lambda: self._write_to_volume(self._dice.choice(sorted(self.volumes))))
        choices.append(self._create_key if len(self.keys) < 3 else self._delete_key)
        self._dice.choice(choices)()

    def _create(self) -> None:
        sandbox = Sandbox.create(template="base", timeout=600, **self._options)
        self.known[sandbox.sandbox_id] = Known(sandbox)

    def _write(self, one: Known) -> None:
        name = f"{len(one.files)}.txt"
        one.sandbox.files.write(name, name, request_timeout=5)
        one.files.append(name)

    def _run_command(self, one: Known) -> None:
        # Without timeout=0 the command ends after a minute.
        handle = one.sandbox.commands.run(BACKGROUND, background=True, timeout=0, request_timeout=5)
        one.commands.append(handle.pid)
        handle.disconnect()

    def _pause(self, one: Known) -> None:
        one.state = None
        memory = self._dice.random() < 0.7
        if not memory:
            one.commands.clear()
        one.sandbox.pause(keep_memory=memory, **self._options)
        one.state = "paused"

    def _connect(self, one: Known) -> None:
        one.state = None
        one.sandbox = Sandbox.connect(one.sandbox.sandbox_id, timeout=600, **self._options)
        one.state = "running"

    def _kill(self, one: Known) -> None:
        del self.known[one.sandbox.sandbox_id]
        one.sandbox.kill(**self._options)
        self.deleted.add(one.sandbox.sandbox_id)

    def _snapshot(self, one: Known) -> None:
        self.snapshots.add(one.sandbox.create_snapshot(**self._options).snapshot_id)

    def _delete_snapshot(self, snapshot: str) -> None:
        self.snapshots.remove(snapshot)
        Sandbox.delete_snapshot(snapshot, **self._options)
        self.deleted.add(snapshot)

    def _create_volume(self) -> None:
        volume = Volume.create(f"{self.name}-{self.answers}", **self._options)
        self.volumes[volume.volume_id] = []

    def _write_to_volume(self, volume_id: str) -> None:
        names = self.volumes[volume_id]
        name = f"{len(names)}.txt"
        Volume.connect(volume_id, **self._options).write_file(name, name)
        names.append(name)

    def _destroy_volume(self) -> None:
        volume_id = self._dice.choice(sorted(self.volumes))
        del self.volumes[volume_id]
        Volume.destroy(volume_id, **self._options)
        self.deleted.add(volume_id)

    def _create_key(self) -> None:
        with self._manager.api() as api:
            made = api.post("/api-keys", json={"name": self.name}).raise_for_status().json()
        self.keys[made["id"]] = made["key"]

    def _delete_key(self) -> None:
        key_id = self._dice.choice(sorted(self.keys))
        del self.keys[key_id]
        with self._manager.api() as api:
            api.delete(f"/api-keys/{key_id}").raise_for_status()
        self.deleted.add(key_id)

    def check(self, manager: RunningManager) -> None:
        """Compare what the client was told with what is there."""
        self._manager = manager
        there = listed(manager)
        assert set(self.known) <= set(there)
        for sandbox_id, known in self.known.items():
            assert known.state in (None, there[sandbox_id])
            one = known.sandbox = Sandbox.connect(sandbox_id, timeout=600, **self._options)
            known.state = "running"
            names = {entry.name for entry in one.files.list("/home/user")}
            assert set(known.files) <= names
            assert all(one.files.read(name) == name for name in known.files)
            assert set(known.commands) <= {process.pid for process in one.commands.list()}
        found = {volume.volume_id for volume in Volume.list(**self._options)}
        assert set(self.volumes) <= found
        for volume_id, files in self.volumes.items():
            volume = Volume.connect(volume_id, **self._options)
            assert all(volume.read_file(name) == name for name in files)
        found |= (snapshots := listed_snapshots(manager))
        assert self.snapshots <= snapshots
        with manager.api() as api:
            keys = {key["id"] for key in api.get("/api-keys").raise_for_status().json()}
        assert set(self.keys) <= keys
        for key in self.keys.values():
            assert Sandbox.list(**{**self._options, "api_key": key}).next_items() is not None
        assert not self.deleted & (found | keys | set(there))


def listed(manager: RunningManager) -> dict[str, str]:
    """Return the states of a manager's sandboxes by their ids."""
    with manager.api() as api:
        return {one["sandboxID"]: one["state"] for one in api.get("/v2/sandboxes").raise_for_status().json()}


def listed_snapshots(manager: RunningManager) -> set[str]:
    with manager.api() as api:
        return {one["snapshotID"] for one in api.get("/snapshots").raise_for_status().json()}


def folders(manager: RunningManager, kind: str = "sandboxes") -> set[str]:
    """Return the names of the folders that a manager keeps for sandboxes, volumes or snapshots."""
    return {path.name for path in (manager.state_dir / kind).iterdir() if not path.name.startswith(".")}


def folder_names(sandbox_ids: Iterable[str]) -> set[str]:
    """Return the names of the folders of sandboxes."""
    return {folder_name(sandbox_id) for sandbox_id in sandbox_ids}


def assert_only_what_is_listed(manager: RunningManager) -> None:
    """Fail if a manager keeps a folder of a sandbox, volume or snapshot that its API does not list."""
    assert not (manager.state_dir / "lost").exists()
    assert folders(manager) == folder_names(listed(manager))
    assert folders(manager, "snapshots") == listed_snapshots(manager)
    volumes = {volume.volume_id for volume in Volume.list(domain=manager.domain, api_key=manager.api_key)}
    assert folders(manager, "volumes") == volumes


def kill_everything(manager: RunningManager, but: Sequence[Busy] = ()) -> None:
    """Remove all sandboxes, volumes, snapshots and keys over the API, except those that the clients ``but`` know."""
    known = {name for busy in but for kind in (busy.known, busy.volumes, busy.snapshots, busy.keys) for name in kind}
    with manager.api() as api:
        keys = api.get("/api-keys").raise_for_status().json()
        for path, names in {
            "sandboxes": set(listed(manager)),
            "templates": listed_snapshots(manager),
            "volumes": folders(manager, "volumes"),
            "api-keys": {key["id"] for key in keys if key["name"].startswith(_CLIENT)},
        }.items():
            for name in names - known:
                assert api.delete(f"/{path}/{name}").status_code == 204, (path, name)
