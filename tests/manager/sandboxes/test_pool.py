"""Warm sandboxes: claimed instead of booted, replaced when they die, and nobody's until then."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, assert_ends, descendants, running_manager, wait_for

pytestmark = pytest.mark.live
POOL = "kruise_agents_pool_"
OF_POOL = '{template="code-interpreter-v1"}'


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[RunningManager]:
    with running_manager(tmp_path, pool=1) as manager:
        wait_for(lambda: pooled(manager) == 1, 60, "a warm sandbox")
        yield manager


def page(manager: RunningManager) -> dict[str, float]:
    """Return the metrics by name, labels included."""
    text = httpx.get(f"{manager.scheme}://{manager.domain}/metrics", timeout=60).raise_for_status().text
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def pooled(manager: RunningManager) -> float:
    return page(manager)[f"{POOL}size{OF_POOL}"]


def claims(manager: RunningManager, start: str) -> float:
    return page(manager)[f'{POOL}claims_total{{template="code-interpreter-v1",start="{start}"}}']


def create(manager: RunningManager, **options: object) -> Sandbox:
    return Sandbox.create(domain=manager.domain, api_key=manager.api_key, **options)


def folders(manager: RunningManager) -> list[Path]:
    return [path for path in (manager.state_dir / "sandboxes").iterdir() if path.is_dir()]


def test_a_create_claims_a_warm_one_and_another_takes_its_place(warm: RunningManager) -> None:
    (waiting,) = folders(warm)
    with create(warm, envs={"COLOUR": "blue"}, metadata={"a": "b"}) as sandbox:
        assert warm.folder_of(sandbox.sandbox_id) == waiting
        assert claims(warm, "warm") == 1
        code = "import os; print(os.environ['COLOUR'], os.environ['E2B_SANDBOX_ID'])"
        assert sandbox.run_code(code).logs.stdout == [f"blue {sandbox.sandbox_id}\n"]
        command = "echo $COLOUR $E2B_SANDBOX_ID; cat /run/e2b/.E2B_SANDBOX_ID 2>/dev/null || true"
        assert sandbox.commands.run(command).stdout.startswith(f"blue {sandbox.sandbox_id}\n")
        assert sandbox.get_info().metadata == {"a": "b"}
        wait_for(lambda: pooled(warm) == 1, 60, "another warm one")
        assert len(folders(warm)) == 2


def test_a_claimed_one_asks_for_its_token(warm: RunningManager) -> None:
    with create(warm) as sandbox:
        url = warm.sandbox_url(sandbox.sandbox_id, 49983)
        assert httpx.get(f"{url}/files", params={"path": "/etc/passwd"}).status_code == 401


NOTE_IDS = """
import os, pathlib
import kruise_agents.manager.sandboxes.pool as pool
make = pool.new_sandbox_id
def note():
    made = make()
    pathlib.Path(os.environ["HOME"], "id-of-the-pool").write_text(made)
    return made
pool.new_sandbox_id = note
"""


def test_one_that_waits_is_no_sandbox(tmp_path: Path) -> None:
    with running_manager(tmp_path, pool=1, prelude=NOTE_IDS) as warm, warm.api() as api:
        wait_for(lambda: pooled(warm) == 1, 60, "a warm sandbox")
        waiting = (tmp_path / "id-of-the-pool").read_text()
        assert folders(warm) == [warm.folder_of(waiting)]
        assert api.get("/v2/sandboxes").json() == []
        assert api.get(f"/sandboxes/{waiting}").status_code == 404
        assert api.delete(f"/sandboxes/{waiting}").status_code == 404
        assert httpx.get(f"{warm.sandbox_url(waiting, 49999)}/health").status_code == 502
        assert page(warm)['kruise_agents_sandboxes{state="running"}'] == 0


def test_another_template_is_not_taken_from_the_pool(warm: RunningManager) -> None:
    with create(warm, template="base"):
        assert claims(warm, "warm") == claims(warm, "cold") == 0


def test_a_fork_is_not_taken_from_the_pool(warm: RunningManager) -> None:
    with create(warm) as sandbox:
        sandbox.files.write("kept.txt", "1")
        wait_for(lambda: pooled(warm) == 1, 60, "another warm one")
        with warm.api() as api:
            (fork,) = api.post(f"/sandboxes/{sandbox.sandbox_id}/fork", json={}).raise_for_status().json()
        other = Sandbox.connect(fork["sandbox"]["sandboxID"], domain=warm.domain, api_key=warm.api_key)
        assert other.files.read("kept.txt") == "1"
        assert claims(warm, "warm") == 1


def test_with_an_empty_pool_a_create_boots(tmp_path: Path) -> None:
    with running_manager(tmp_path, pool=1) as manager:
        made = [create(manager) for _ in range(3)]
        assert claims(manager, "warm") + claims(manager, "cold") == 3
        assert claims(manager, "cold") >= 1
        for sandbox in made:
            assert sandbox.run_code("1 + 1").text == "2"


def test_one_that_dies_while_it_waits_is_replaced(warm: RunningManager) -> None:
    (waiting,) = folders(warm)
    for pid in descendants(warm.process.pid):
        with contextlib.suppress(ProcessLookupError):  # it has ended with the one before
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: page(warm)[f"{POOL}failures_total{OF_POOL}"] == 1, 30, "the loss is noticed")
    wait_for(lambda: pooled(warm) == 1, 60, "another warm one")
    assert not waiting.exists()
    with create(warm) as sandbox:
        assert sandbox.run_code("1 + 1").text == "2"


def test_one_that_does_not_answer_when_it_is_claimed_is_ended_and_the_create_boots_another(
    warm: RunningManager,
) -> None:
    (stuck,) = folders(warm)
    programs = [pid for pid in descendants(warm.process.pid) if is_sandbox_program(pid)]
    assert programs
    for pid in programs:
        os.kill(pid, signal.SIGSTOP)
    with create(warm, envs={"COLOUR": "blue"}) as sandbox:
        assert sandbox.sandbox_id != stuck.name
        assert sandbox.run_code("import os; os.environ['COLOUR']").text == "blue"
        wait_for(lambda: not stuck.exists(), 30, "the end of the one that is stuck")
        with warm.api() as api:
            assert [one["sandboxID"] for one in api.get("/v2/sandboxes").json()] == [sandbox.sandbox_id]
        numbers = page(warm)
        assert numbers[f"{POOL}failures_total{OF_POOL}"] == 1
        assert (claims(warm, "warm"), claims(warm, "cold")) in ((0, 1), (1, 0))  # a new warm one may be there by then
        assert numbers["kruise_agents_sandbox_create_failures_total"] == 0
    assert_ends(programs)


def is_sandbox_program(pid: int) -> bool:
    """Return True if a process is the program of a sandbox, and not a process around the program."""
    return Path(f"/proc/{pid}/comm").read_text() == "envd\n"


def test_those_that_wait_end_with_the_manager(tmp_path: Path) -> None:
    with running_manager(tmp_path, "--keep", pool=1) as manager:
        wait_for(lambda: pooled(manager) == 1, 60, "a warm sandbox")
        processes = descendants(manager.process.pid)
        assert processes
    assert_ends(processes)
    assert folders(manager) == []


def test_those_that_wait_end_with_a_manager_that_was_killed(tmp_path: Path) -> None:
    with running_manager(tmp_path, pool=1) as manager:
        wait_for(lambda: pooled(manager) == 1, 60, "a warm sandbox")
        processes = descendants(manager.process.pid)
        manager.process.kill()
        manager.process.wait()
        assert_ends(processes)
    with running_manager(tmp_path) as manager:
        assert folders(manager) == []


def test_a_claimed_one_outlives_a_manager_that_was_killed(tmp_path: Path) -> None:
    with running_manager(tmp_path, pool=1) as manager:
        wait_for(lambda: pooled(manager) == 1, 60, "a warm sandbox")
        sandbox = create(manager)
        sandbox.run_code("x = 5")
        manager.process.kill()
        manager.process.wait()
    with running_manager(tmp_path) as manager:
        again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
        assert again.run_code("x").text == "5"


def test_the_metrics_count_what_happens(manager: RunningManager) -> None:
    before = page(manager)
    with create(manager, template="base"):
        assert page(manager)['kruise_agents_sandboxes{state="running"}'] >= 1
    create(manager, template="base", timeout=1)
    ended = 'kruise_agents_sandboxes_ended_total{reason="end time"}'
    wait_for(lambda: page(manager).get(ended, 0) > before.get(ended, 0), 30, "the end")
    after = page(manager)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('kruise_agents_sandbox_create_seconds_count{start="cold"}') >= 2
    assert grown('kruise_agents_sandbox_create_seconds_bucket{start="cold",le="+Inf"}') >= 2
    assert grown('kruise_agents_sandboxes_ended_total{reason="kill"}') >= 1
    assert grown('kruise_agents_http_requests_total{door="api",status="201"}') >= 2


def test_the_metrics_have_the_text_format(manager: RunningManager) -> None:
    answer = httpx.get(f"{manager.scheme}://{manager.domain}/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE kruise_agents_sandbox_create_seconds histogram\n" in answer.text
    assert answer.text.endswith("\n")
    assert httpx.get(f"{manager.api_url}/metrics").status_code == 401


def test_a_template_that_cannot_start_does_not_keep_the_others_cold(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "bad.toml").write_text('code_interpreter = false\npool = 2\nstart = "exit 3"\n[ready]\nport = 9\n')
    (templates / "good.toml").write_text("code_interpreter = false\npool = 1\n")
    with running_manager(tmp_path, "--templates", str(templates)) as manager:

        def value(name: str, template: str) -> float:
            return page(manager)[f'{POOL}{name}{{template="{template}"}}']

        wait_for(lambda: value("size", "good") == 1, 30, "a warm sandbox of the one that can start")
        wait_for(lambda: value("failures_total", "bad") >= 2, 30, "failures of the one that cannot")
        Sandbox.create("good", domain=manager.domain, api_key=manager.api_key)
        wait_for(lambda: value("size", "good") == 1, 30, "another warm one")
        assert value("size", "bad") == 0
