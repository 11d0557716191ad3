"""A manager inside a larger program: what is checked before it starts, and what is left when it does not."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.http.certificates import make_certificate
from kruise_agents.manager.manager import Manager
from kruise_agents.manager.runtime import Limits
from kruise_agents.manager.sandboxes.recovery import Found
from kruise_agents.manager.settings import Settings
from support.managers import API_KEY, available_runtime, children

WRONG_TEMPLATE = 'name = "half\n'
UNFIT_TEMPLATE = "internet = false\n"
pytestmark = [
    pytest.mark.live,
    # Sandboxes that outlive their manager outlive its handles on them.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
]
STEPS = [
    "kruise_agents.manager.manager.bind",
    "kruise_agents.manager.manager.compile_program",
    "kruise_agents.manager.runtime.ProcessRuntime.check",
    "kruise_agents.manager.runtime.ProcessRuntime.open",
    "kruise_agents.manager.manager.spread_apart",
    "kruise_agents.manager.manager.Database",
    "kruise_agents.manager.manager.StateSecret.at",
    "kruise_agents.manager.manager.Builder.build",
    "kruise_agents.manager.manager.Snapshots.recover",
    "kruise_agents.manager.manager.Volumes.recover",
    "kruise_agents.manager.manager.Keys",
    "kruise_agents.manager.manager.create_api",
    "kruise_agents.manager.manager.make_certificate",
    "kruise_agents.manager.manager.front_server",
    "kruise_agents.manager.sandboxes.process.SandboxProcess.attach",
    "kruise_agents.manager.sandboxes.recovery._recover",
    "kruise_agents.manager.manager.recover",
    "kruise_agents.manager.manager.Inheritance.transfer_orphans",
    "kruise_agents.serving.Server.start",
    "kruise_agents.manager.manager.UsageHistory.start",
    "kruise_agents.manager.sandboxes.pool.Pools.start",
]
"""Everything that a start does one after another."""
ENDS = [
    "kruise_agents.manager.manager.UsageHistory.close",
    "kruise_agents.manager.sandboxes.pool.Pools.close",
    "kruise_agents.manager.sandboxes.service.SandboxService.close",
    "kruise_agents.serving.Server.stop",
    "kruise_agents.manager.runtime.ProcessRuntime.close",
    "kruise_agents.manager.manager.Database.close",
]


class InjectedError(Exception):
    """A step that fails after it has done its work."""


@dataclass(frozen=True)
class Traces:
    """The tasks, timers, threads, descriptors and children of this process, which a manager must leave as they were."""

    tasks: int
    timers: int
    threads: list[str]
    descriptors: list[str]
    processes: list[int]

    @classmethod
    def now(cls) -> Traces:
        gc.collect()
        subprocess._cleanup()  # type: ignore[attr-defined]  # waits for ended children whose object is gone, as Popen does
        loop: Any = asyncio.get_running_loop()
        descriptors = []
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                descriptors.append(str(path.readlink()).partition(":[")[0])
        return cls(
            tasks=len(asyncio.all_tasks()),
            timers=sum(not timer.cancelled() for timer in loop._scheduled),
            # The event loop keeps its own until it is closed.
            threads=sorted(thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")),
            descriptors=sorted(descriptors),
            processes=sorted(children(os.getpid())),
        )

    def beyond(self, before: Traces) -> dict[str, list[Any]]:
        """Return what was added. Less is no fault: connections of earlier tests may end late."""
        added = {
            "tasks": [self.tasks] if self.tasks > before.tasks else [],
            "timers": [self.timers] if self.timers > before.timers else [],
        }
        for name in ("threads", "descriptors", "processes"):
            more = Counter(getattr(self, name)) - Counter(getattr(before, name))
            added[name] = sorted(more.elements())
        return {name: more for name, more in added.items() if more}


async def assert_no_more_than(before: Traces) -> None:
    deadline = time.monotonic() + 20
    while (added := Traces.now().beyond(before)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    assert added == {}


@pytest.fixture(scope="module", autouse=True)
def cheap_collections() -> Iterator[None]:
    """Garbage collections that pass over the objects of earlier tests, which would take most of the time here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The state folder of a manager that ended and left a sandbox running."""
    folder = tmp_path_factory.mktemp("manager-start") / "state"

    async def leave_a_sandbox() -> None:
        async with Manager(settings_of(folder)) as manager, client_of(manager) as api:
            (await api.post("/sandboxes", json={"templateID": "base", "timeout": 3600})).raise_for_status()

    async def end_it() -> None:
        async with Manager(settings_of(folder, keep=False)):
            pass

    asyncio.run(leave_a_sandbox())
    yield folder
    asyncio.run(end_it())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = make_certificate(tmp_path_factory.mktemp("tls"), ["localhost"])
    return made.certificate, made.private_key


def settings_of(state_dir: Path, **changes: Any) -> Settings:
    settings = Settings(state_dir, [API_KEY], host="127.0.0.1", port=0, runtime="process", keep=True, pool=0)
    return replace(settings, **changes)


@contextlib.asynccontextmanager
async def client_of(manager: Manager) -> AsyncIterator[httpx.AsyncClient]:
    url = f"http://localhost:{manager.port}/kruise/api"
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": API_KEY}, timeout=60) as client:
        yield client


def files_of(state_dir: Path) -> dict[str, int]:
    """Return all files of a state folder with their time of change, without the files that sandboxes write."""
    found = {}
    for path in sorted(state_dir.rglob("*")):
        if "sandboxes" not in path.relative_to(state_dir).parts:
            found[str(path)] = path.lstat().st_mtime_ns
    return found


def rows_of(state_dir: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(state_dir / "state.db")) as database:
        return database.execute("SELECT * FROM sandboxes").fetchall()


async def assert_adopted(state_dir: Path) -> None:
    """Check that the sandbox of the earlier manager runs, and that the next good start takes the sandbox over."""
    ((sandbox_id, *_),) = rows = rows_of(state_dir)
    assert "running" in rows[0]
    async with Manager(settings_of(state_dir)) as manager, client_of(manager) as api:
        assert manager.found == Found(running=1)
        assert (await api.get(f"/sandboxes/{sandbox_id}")).json()["state"] == "running"
        health = await api.get(f"http://localhost:{manager.port}/kruise/{sandbox_id}/49983/health")
        assert health.status_code == 204


def taken_port() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


WrongSettings = Callable[[Path, tuple[Path, Path]], dict[str, Any]]


def template_folder(folder: Path, text: str) -> Path:
    made = folder / "templates"
    made.mkdir()
    (made / "one.toml").write_text(text)
    return made


def locked(private_key: Path, folder: Path) -> Path:
    """Return a copy of a private key that only a passphrase opens."""
    key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    made = folder / "locked.pem"
    made.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return made


WRONG: dict[str, WrongSettings] = {
    "a certificate that is not there": lambda folder, _: {"tls": True, "certificate": folder / "none.pem"},
    "a certificate without its key": lambda _, pair: {"tls": True, "certificate": pair[0]},
    "a certificate that is none": lambda folder, pair: {
        "tls": True,
        "certificate": shutil.copy(__file__, folder / "not.pem"),
        "private_key": pair[1],
    },
    "a key that is none": lambda _, pair: {"tls": True, "certificate": pair[0], "private_key": Path(__file__)},
    "a private key without its certificate": lambda _, pair: {"private_key": pair[1]},
    "a private key with a passphrase": lambda folder, pair: {
        "tls": True,
        "certificate": pair[0],
        "private_key": locked(pair[1], folder),
    },
    "a domain that is none": lambda *_: {"domain": "https://sandboxes.example.com/x"},
    "no folder of templates": lambda folder, _: {"templates": folder / "none"},
    "a template that cannot be read": lambda folder, _: {"templates": template_folder(folder, WRONG_TEMPLATE)},
    "a template that does not fit": lambda folder, _: {"templates": template_folder(folder, UNFIT_TEMPLATE)},
    "no such runtime": lambda *_: {"runtime": "docker"},
    "a network that cannot be closed": lambda *_: {"runtime": "process", "internet": False},
    "no such host": lambda *_: {"host": "no-such-host.invalid"},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_before_anything_is_touched(
    wrong: str, state_dir: Path, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    async def scene() -> None:
        changes = WRONG[wrong](tmp_path, certificate)
        before, files, rows = Traces.now(), files_of(state_dir), rows_of(state_dir)
        with pytest.raises(ConfigurationError):
            await Manager(settings_of(state_dir, **changes)).__aenter__()
        assert Traces.now().beyond(before) == {}
        assert files_of(state_dir) == files
        assert rows_of(state_dir) == rows
        with pytest.raises(ConfigurationError):
            await Manager(settings_of(tmp_path / "new", **changes)).__aenter__()
        assert not (tmp_path / "new").exists()
        await assert_adopted(state_dir)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"port": 70000}, "port must be a number from 0 to 65535, got 70000"),
        ({"port": -1}, "port must be a number"),
        ({"port": True}, "port must be of the type int, got True"),
        ({"api_keys": "abc"}, "api_keys must be a list of str"),
        ({"api_keys": [1]}, "api_keys must be a list of str"),
        ({"traffic_token_validity": 0}, "traffic_token_validity must be a number from 1"),
        ({"traffic_token_clock_skew": math.nan}, "traffic_token_clock_skew must be a number from 0"),
        ({"pool": 1000}, "pool must be a number from 0 to 100, got 1000"),
        ({"internet": "no"}, "internet must be of the type bool, got 'no'"),
        ({"limits": Limits(cpus=0)}, "limits.cpus must be a number from 1"),
        ({"limits": None}, "limits must be of the type Limits, got None"),
        ({"runtime": "docker"}, "runtime must be one of bubblewrap, process, got 'docker'"),
        ({"like": "e2b"}, "like must be one of openkruise, got 'e2b'"),
        ({"like": 1}, "like must be of the type str, got 1"),
        ({"templates": "templates"}, "templates must be of the type Path, got 'templates'"),
    ],
)
def test_a_program_is_told_which_setting_is_wrong(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Manager(settings_of(tmp_path / "state", **changes))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty secret": (lambda folder: (folder / "secret").write_bytes(b""), "has 0 bytes in place of 32"),
    "a signing key that is none": (
        lambda folder: (folder / "traffic-token-key.pem").write_text("no"),
        "no Ed25519 key",
    ),
    "a folder for the secret": (lambda folder: (folder / "secret").mkdir(), "secret"),
    "a folder for the database": (lambda folder: (folder / "state.db").mkdir(), "state.db"),
    "a file for the snapshots": (lambda folder: (folder / "snapshots").touch(), "snapshots"),
    "a file for the prepared trees": (lambda folder: (folder / "prepared").touch(), "prepared"),
    "a file for the certificates": (lambda folder: (folder / "tls").touch(), "tls"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_state_folder_with_a_file_of_another_kind_is_refused_by_name(spoilt: str, tmp_path: Path) -> None:
    spoil, text = SPOILT[spoilt]
    spoil(tmp_path)

    async def scene() -> None:
        before = Traces.now()
        with pytest.raises(ConfigurationError, match=text):
            await Manager(settings_of(tmp_path, tls=True)).__aenter__()
        await assert_no_more_than(before)

    asyncio.run(scene())


def test_a_port_in_use_is_found_before_anything_is_touched(state_dir: Path) -> None:
    async def scene() -> None:
        with taken_port() as taken:
            before, files = Traces.now(), files_of(state_dir)
            with pytest.raises(ConfigurationError, match="is in use by another program"):
                await Manager(settings_of(state_dir, port=taken.getsockname()[1])).__aenter__()
            assert Traces.now() == before
            assert files_of(state_dir) == files

    asyncio.run(scene())


def test_an_empty_api_key_is_refused_at_once(tmp_path: Path) -> None:
    for keys in ([""], ["  "], ["good", "bad\n"], ["a\x01b"]):
        with pytest.raises(ConfigurationError):
            Manager(settings_of(tmp_path / "state", api_keys=keys))
    assert not (tmp_path / "state").exists()


def test_a_template_that_cannot_be_prepared_is_found_before_sandboxes_are_taken_over(
    state_dir: Path, tmp_path: Path
) -> None:
    templates = template_folder(tmp_path, 'requirements = ["./there-is-no-such-wheel.whl"]\n')

    async def scene() -> None:
        before, rows = Traces.now(), rows_of(state_dir)
        with pytest.raises(ConfigurationError, match="requirements cannot be installed"):
            await Manager(settings_of(state_dir, templates=templates)).__aenter__()
        await assert_no_more_than(before)
        assert rows_of(state_dir) == rows
        await assert_adopted(state_dir)

    asyncio.run(scene())


def after(monkeypatch: pytest.MonkeyPatch, name: str, then: Callable[[], object]) -> None:
    """Call ``then`` whenever the function of that name has done its work."""
    owner_name, _, attribute = name.rpartition(".")
    module, _, class_name = owner_name.rpartition(".")
    if class_name[0].isupper():
        owner = getattr(__import__(module, fromlist=["x"]), class_name)
    else:
        owner = __import__(owner_name, fromlist=["x"])
    original = inspect.getattr_static(owner, attribute)
    function = original.__func__ if isinstance(original, classmethod) else original

    if inspect.iscoroutinefunction(function):

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            result = await function(*args, **kwargs)
            then()
            return result

        run: Any = run_async
    else:

        def run_sync(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            try:
                then()
            except InjectedError:
                for made in result if isinstance(result, list) else [result]:
                    if name.endswith(("bind", "Database")):
                        made.close()  # nobody else ever had it
                raise
            return result

        run = run_sync
    if not isinstance(function, type):
        run = functools.wraps(function)(run)
    monkeypatch.setattr(owner, attribute, classmethod(run) if isinstance(original, classmethod) else run)


def fail() -> None:
    raise InjectedError


@pytest.mark.parametrize("step", STEPS)
def test_a_start_that_fails_or_is_cancelled_leaves_nothing_behind(
    step: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        before = Traces.now()
        loop = asyncio.get_running_loop()
        settings = settings_of(state_dir, tls=True, pool=1)
        with monkeypatch.context() as patch:
            after(patch, step, fail)
            with pytest.raises(InjectedError):
                await Manager(settings).__aenter__()
        await assert_no_more_than(before)
        with monkeypatch.context() as patch:
            starting = asyncio.create_task(start_and_wait(settings))
            after(patch, step, lambda: loop.call_soon_threadsafe(starting.cancel))
            with pytest.raises(asyncio.CancelledError):
                await starting
        await assert_no_more_than(before)
        await assert_adopted(state_dir)
        await assert_no_more_than(before)

    async def start_and_wait(settings: Settings) -> None:
        async with Manager(settings):
            await asyncio.sleep(60)

    asyncio.run(scene())


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("step", ENDS)
def test_an_end_that_fails_leaves_nothing_behind(
    step: str, keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        before = Traces.now()
        with monkeypatch.context() as patch:
            after(patch, step, fail)
            with contextlib.suppress(InjectedError):
                async with Manager(settings_of(tmp_path / "state", keep=keep, pool=1)):
                    pass
        await assert_no_more_than(before)
        async with Manager(settings_of(tmp_path / "state", keep=False)):
            pass
        await assert_no_more_than(before)

    asyncio.run(scene())


@pytest.mark.parametrize("step", ENDS)
def test_an_end_that_is_cancelled_is_finished_first(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        before = Traces.now()
        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            ending = asyncio.create_task(start_and_end())
            after(patch, step, lambda: loop.call_soon_threadsafe(ending.cancel))
            with contextlib.suppress(asyncio.CancelledError):
                await ending
        await assert_no_more_than(before)
        assert rows_of(tmp_path / "state") == []
        assert list((tmp_path / "state" / "sandboxes").glob("*")) == []

    async def start_and_end() -> None:
        async with (
            Manager(settings_of(tmp_path / "state", keep=False)) as manager,
            client_of(manager) as api,
        ):
            (await api.post("/sandboxes", json={"templateID": "base"})).raise_for_status()

    asyncio.run(scene())


def test_a_manager_that_runs_cannot_be_entered_again(tmp_path: Path) -> None:
    async def scene() -> None:
        before = Traces.now()
        manager = Manager(settings_of(tmp_path / "state", keep=False))
        async with manager, client_of(manager) as api:
            with pytest.raises(RuntimeError, match="runs already"):
                await manager.__aenter__()
            (await api.post("/sandboxes", json={"templateID": "base"})).raise_for_status()
        await assert_no_more_than(before)

    asyncio.run(scene())


def test_a_manager_that_has_ended_can_be_entered_again(tmp_path: Path) -> None:
    async def scene() -> None:
        before = Traces.now()
        manager = Manager(settings_of(tmp_path / "state"))
        async with manager, client_of(manager) as api:
            (await api.post("/sandboxes", json={"templateID": "base"})).raise_for_status()
        await assert_no_more_than(replace(before, processes=Traces.now().processes))  # the sandbox is one
        async with manager:
            assert manager.found == Found(running=1)
        async with Manager(settings_of(tmp_path / "state", keep=False)):
            pass
        await assert_no_more_than(before)

    asyncio.run(scene())


def test_a_start_with_the_isolating_runtime_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        before = Traces.now()
        settings = settings_of(tmp_path / "state", runtime=available_runtime(), pool=1)
        with monkeypatch.context() as patch:
            after(patch, "kruise_agents.manager.sandboxes.pool.Pools.start", fail)
            with pytest.raises(InjectedError):
                await Manager(settings).__aenter__()
        await assert_no_more_than(before)
        async with Manager(replace(settings, keep=False)):
            pass
        await assert_no_more_than(before)

    asyncio.run(scene())
