"""The watchdog's looks at the disk: when it measures, and what happens if that fails. No manager and no sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kruise_agents.manager.runtime import MIB, Layout, Limits, Mount, Watchdog
from kruise_agents.manager.runtime.files import trees
from kruise_agents.manager.runtime.limits import disk, watchdog
from kruise_agents.manager.runtime.limits.disk import LimitedFolder
from kruise_agents.manager.runtime.limits.processes import Process

GIB = 1024 * MIB


class Clock:
    """The time and the free bytes of a made-up disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.free = 1000.0, 500 * GIB
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(os, "statvfs", lambda _: self._facts())

    def _facts(self) -> SimpleNamespace:
        return SimpleNamespace(f_bfree=self.free, f_frsize=1, f_ffree=10**9)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def folder(clock: Clock, tmp_path: Path) -> LimitedFolder:
    """A folder with 40 of 64 MiB, measured a second after its sandbox had started."""
    folder = LimitedFolder(tmp_path, 64 * MIB)
    clock.pass_by(1)
    assert folder.is_due(busy=False)
    folder.measure(lambda _: 40 * MIB, 0)
    return folder


def is_due(folder: LimitedFolder, *, busy: bool = False) -> bool:
    folder.look()
    return folder.is_due(busy=busy)


def test_an_idle_folder_is_measured_when_the_disk_has_lost_what_it_has_left(
    folder: LimitedFolder, clock: Clock
) -> None:
    clock.pass_by(100)
    assert not is_due(folder)
    clock.free -= 24 * MIB
    assert not is_due(folder), "it may be full, but not fuller"
    clock.free -= 1
    assert is_due(folder)


def test_what_others_free_hides_nothing(folder: LimitedFolder, clock: Clock) -> None:
    for _ in range(4):
        clock.pass_by(0.5)
        clock.free -= 8 * MIB
        assert not is_due(folder) or folder.lost > 24 * MIB
        clock.free += GIB
        folder.look()
    assert is_due(folder)


def test_a_busy_folder_that_may_be_over_does_not_wait_for_a_second(folder: LimitedFolder, clock: Clock) -> None:
    clock.free -= 25 * MIB
    clock.pass_by(0.1)
    assert not is_due(folder)
    assert is_due(folder, busy=True)


def test_a_folder_that_nobody_can_measure_has_what_the_disk_has_lost(folder: LimitedFolder, clock: Clock) -> None:
    def fail(_: Path) -> int:
        raise OSError(errno.EIO, "a test says so")

    clock.free -= 30 * MIB
    for _ in range(disk._MOST_FAILURES - 1):
        clock.pass_by(1)
        assert is_due(folder)
        folder.measure(fail, 0)
        assert folder.used == 40 * MIB, "a failure now and then says nothing"
    clock.pass_by(1)
    folder.measure(fail, 0)
    assert folder.used == 70 * MIB
    folder.measure(lambda _: 41 * MIB, 0)
    assert (folder.used, folder.lost) == (41 * MIB, 0)


def test_a_folder_that_began_above_its_limit_has_not_grown_at_once(clock: Clock, tmp_path: Path) -> None:
    watched = sandbox_disk(tmp_path)
    clock.pass_by(1)
    assert watched.measure(watched.look(), lambda _: 5 * GIB) is None
    assert watched.refused


def test_a_folder_that_has_grown_at_once_ends_its_sandbox(clock: Clock, tmp_path: Path) -> None:
    watched = sandbox_disk(tmp_path)
    clock.free -= 2 * GIB
    clock.pass_by(1)
    assert watched.measure(watched.look(), lambda _: 2 * GIB) == "has written 2048 of 64 MiB of files at once"


def broken_log(_: Path) -> None:
    raise PermissionError(errno.EACCES, "a test says so")


def no_trap(_: Layout) -> None:
    pass


def missing_volume(layout: Layout) -> None:
    layout.mounts[0].source.rmdir()


@pytest.mark.live
@pytest.mark.parametrize(
    ("shorten", "trap"), [(broken_log, no_trap), (lambda _: None, missing_volume)], ids=["log", "volume"]
)
def test_an_error_at_one_place_stops_no_look_at_the_others(
    shorten: Callable[[Path], None], trap: Callable[[Layout], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(disk, "_SECONDS", 0.01)
    monkeypatch.setattr(disk, "shorten", shorten)
    usages = iter([70 * MIB, 70 * MIB, 300 * MIB])

    async def tell(_pid: int, _reason: str) -> None:
        raise AssertionError("nothing is killed here")

    async def scene() -> None:
        ended = asyncio.Event()
        watching = Watchdog(lambda _: next(usages, 300 * MIB), memory=False)
        with sleeper() as process:
            layout = layout_in(tmp_path)
            trap(layout)
            watching.add("ione", process.pid, layout, Limits(disk=64 * MIB), ended.set, tell)
            try:
                await asyncio.wait_for(ended.wait(), 10)
            finally:
                watching.remove("ione")

    asyncio.run(scene())


def test_a_look_beside_a_measurement_refuses_nothing_that_it_allows(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int | None] = []
    monkeypatch.setattr(disk, "_limit_file_size", lambda _, size: sizes.append(size))
    in_look, allowed = threading.Event(), threading.Event()
    looking = threading.Thread(target=lambda: watched.look())

    def family() -> list[Process]:
        if threading.current_thread() is looking:
            in_look.set()
            allowed.wait(0.2)
        return []

    layout = layout_in(tmp_path)
    watched = disk.SandboxDisk("ione", layout, [layout.root], 64 * MIB, family)
    clock.pass_by(1)
    watched.measure(watched.look(), lambda _: 70 * MIB)
    clock.pass_by(1)
    due = watched.look()
    looking.start()
    in_look.wait(10)
    watched.measure(due, lambda _: MIB)
    allowed.set()
    looking.join()
    assert sizes[-1] is None


@pytest.mark.live
def test_a_disk_that_takes_long_to_measure_delays_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(disk, "_SECONDS", 0.01)
    others_done = threading.Event()
    usages = iter([70 * MIB, 300 * MIB])

    def usage(folder: Path) -> int:
        if folder.parent.name == "slow":
            others_done.wait(20)
            return 0
        return next(usages, 300 * MIB)

    async def tell(_pid: int, _reason: str) -> None:
        raise AssertionError("nothing is killed here")

    async def scene() -> None:
        ended = asyncio.Event()
        watching = Watchdog(usage, memory=False)
        with sleeper() as process:
            for name, end in (("slow", others_done.set), ("other", ended.set)):
                (tmp_path / name).mkdir()
                watching.add(name, process.pid, layout_in(tmp_path / name), Limits(disk=64 * MIB), end, tell)
            try:
                await asyncio.wait_for(ended.wait(), 10)
            finally:
                others_done.set()
                watching.remove("slow")
                watching.remove("other")

    asyncio.run(scene())


def test_du_that_gives_no_figure_is_asked_again(tmp_path: Path) -> None:
    answers = iter(["4\n", "", "4\n2\n"])
    assert trees.measured(tmp_path, lambda _: next(answers)) == 2 * trees.FILE_BYTES
    with pytest.raises(OSError, match=f"du measures no size of {tmp_path}"):
        trees.measured(tmp_path, lambda _: "4\n")
    assert trees.measured(tmp_path / "gone", lambda _: "") == 0


def sandbox_disk(folder: Path) -> disk.SandboxDisk:
    layout = layout_in(folder)
    return disk.SandboxDisk("ione", layout, [layout.root], 64 * MIB, list)


def layout_in(folder: Path) -> Layout:
    volume = folder / "volume"
    volume.mkdir()
    layout = Layout(folder / "sandbox", (Mount(volume, "/v"),))
    layout.make_outer()
    layout.log.touch()
    return layout


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            yield process
        finally:
            process.kill()
