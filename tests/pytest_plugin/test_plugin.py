"""Suites of users with the plugin: with pytest-xdist, asynchronous plugins and a debugger, here and on a cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kruise_agents.pytest_plugin.run_folder import RunFolder
from support.managers import RunningManager, assert_ends, available_runtime, processes_with, wait_for

pytest_plugins = ["pytester"]

INI = """
[pytest]
filterwarnings = error
asyncio_default_fixture_loop_scope = function
e2b_runtime = {runtime}
e2b_pool = 0
"""
SUITE = """
import asyncio, json, os, time
from pathlib import Path

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox


@pytest.fixture(autouse=True)
def _record(e2b_manager, pytestconfig, request):
    e2b_manager.api_key not in repr(e2b_manager) or pytest.fail("the key is shown")
    line = [pytestconfig.workerinput["workerid"], e2b_manager.domain, e2b_manager.api_key, os.environ["TMPDIR"]]
    with Path("record").open("a") as file:
        file.write(json.dumps(line) + "\\n")


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_sandbox(e2b_sandbox):
    assert type(e2b_sandbox) is Sandbox
    assert e2b_sandbox.run_code("1 + 1").text == "2"


def test_factory(e2b_sandbox_factory):
    first, second = e2b_sandbox_factory(), e2b_sandbox_factory("base", envs={"NAME": "value"})
    assert second.commands.run("echo $NAME").stdout == "value\\n"
    assert {first.sandbox_id, second.sandbox_id} <= {info.sandbox_id for info in Sandbox.list().next_items()}


class TestOptions:
    @pytest.fixture
    def e2b_create_options(self, e2b_create_options):
        return {**e2b_create_options, "metadata": {"name": "mine"}}

    def test_own_options(self, e2b_sandbox):
        assert e2b_sandbox.get_info().metadata == {"name": "mine"}


@pytest.mark.asyncio
async def test_asyncio(async_e2b_sandbox):
    assert type(async_e2b_sandbox) is AsyncSandbox
    one, two = await asyncio.gather(*(async_e2b_sandbox.run_code(code) for code in ("1 + 1", "2 + 2")))
    assert (one.text, two.text) == ("2", "4")


@pytest.mark.anyio
async def test_anyio(async_e2b_sandbox):
    assert (await async_e2b_sandbox.run_code("3 + 3")).text == "6"
    assert await async_e2b_sandbox.kill()


def test_crash():
    os._exit(1)


def test_leaves_one():
    Sandbox.create()


@pytest.fixture
def until_the_end(e2b_manager):
    sandbox = Sandbox.create(timeout=2)
    yield
    while sandbox.is_running():
        time.sleep(0.1)


def test_leaves_one_that_expires(until_the_end):
    Sandbox.create().kill()
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder for tests and the folders of runs."""
    for name in list(os.environ):
        if name.startswith("E2B_"):
            monkeypatch.delenv(name)
    folder = pytester.mkdir("tmp")
    monkeypatch.setenv("TMPDIR", str(folder))
    pytester.makeini(INI.format(runtime=available_runtime()))
    return pytester


def left_by(suite: pytest.Pytester) -> list[Path]:
    """Return the folders of runs and of managers."""
    return list((suite.path / "tmp").glob("kruise-agents-*"))


@pytest.mark.live
def test_workers_share_a_manager_that_ends_with_the_run(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_suite=SUITE)
    result = suite.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["FAILED *test_crash*"])
    record = [json.loads(line) for line in (suite.path / "record").read_text().splitlines()]
    workers, domains, keys, _ = (set(values) for values in zip(*record, strict=True))
    assert len(workers) == len(keys) > 1
    assert len(domains) == 1
    section = sorted(result.stdout.str().partition("E2B sandboxes that tests left behind")[2].splitlines()[1:3])
    patterns = [
        r"test_suite.py::test_leaves_one: i\w+ \(code-interpreter-v1\)",
        r"test_suite.py::test_leaves_one_that_expires: i\w+ \(code-interpreter-v1\), ended by its time limit",
    ]
    assert [bool(re.fullmatch(*pair)) for pair in zip(patterns, section, strict=True)] == [True, True], section
    assert left_by(suite) == []
    assert processes_with(str(suite.path)) == []


@pytest.mark.live
def test_failed_tests_keep_their_sandboxes_on_a_manager_that_lives_on(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_passes(e2b_sandbox):
            pass

        def test_fails(e2b_sandbox_factory):
            e2b_sandbox_factory().kill()
            e2b_sandbox_factory().files.write("note", "kept")
            assert 0
    """)
    result = suite.runpytest_subprocess("--e2b-keep-failed")
    result.assert_outcomes(passed=1, failed=1)
    (folder,) = (suite.path / "tmp").glob("kruise-agents-pytest-*")
    said = result.stdout.str()
    pid = int(re.search(r"kill (\d+)    # ends the manager", said)[1])  # type: ignore[index]
    try:
        (sandbox_id,) = re.findall(r"test_fails: kept until \d\d:\d\d:\d\d: (.+)", said)
        (variables,) = re.findall(r"^  \. (.+)$", said, re.MULTILINE)
        assert Path(variables).stat().st_mode & 0o77 == 0
        assert "e2b_" not in said.replace("--e2b_", "").replace("e2b_sandbox", "")
        program = f"""
from kruise_agents.patch_e2b import patch_e2b
patch_e2b(False)
from e2b_code_interpreter import Sandbox
assert [info.sandbox_id for info in Sandbox.list().next_items()] == ["{sandbox_id}"]
print(Sandbox.connect("{sandbox_id}").files.read("note"))
"""
        script = f". {variables}\nexec {sys.executable} -c '{program}'"
        assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout == "kept\n"
    finally:
        os.kill(pid, signal.SIGTERM)
    assert_ends([pid, *processes_with(str(folder))], 30)
    assert left_by(suite) == []


@pytest.mark.live
def test_the_manager_ends_when_the_run_is_killed(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import time
        from pathlib import Path

        def test_waits(e2b_sandbox):
            Path("ready").touch()
            time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-m", "pytest", "-n", "1"], stdout=subprocess.DEVNULL) as run:
        try:
            wait_for((suite.path / "ready").exists, 60)
            (folder,) = (suite.path / "tmp").glob("kruise-agents-pytest-*")
            manager = json.loads((folder / "manager.json").read_text())["pid"]
        finally:
            run.kill()
    assert_ends([manager], 30)
    wait_for(lambda: left_by(suite) == [], 30)


@pytest.mark.live
def test_a_manager_that_does_not_start_says_why(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\ne2b_runtime = docker")
    suite.makepyfile("def test_one(e2b_sandbox):\n    pass\ndef test_two():\n    pass")
    result = suite.runpytest_subprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(
        ["*'docker' is not one of 'bubblewrap', 'process'*", "*settings of pytest, such as e2b_runtime = process"]
    )
    assert left_by(suite) == []


def on(manager: RunningManager, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that run a suite on a manager, as on a cluster."""
    monkeypatch.setenv("E2B_API_KEY", manager.api_key)
    return ["--e2b-domain", manager.domain, "--e2b-http"]


def test_the_same_tests_run_on_a_cluster(
    suite: pytest.Pytester, manager: RunningManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makepyfile("""
        import os

        async def test_auto_mode(async_e2b_sandbox, e2b_manager, monkeypatch):
            assert e2b_manager.environment().items() <= os.environ.items()
            assert not e2b_manager.embedded
            assert (await async_e2b_sandbox.get_info()).name == "base"
            assert (await async_e2b_sandbox.commands.run("echo hello")).stdout == "hello\\n"

        def test_fails(e2b_sandbox):
            assert 0
    """)
    monkeypatch.setenv("E2B_API_URL", "http://localhost:9")
    arguments = [*on(manager, monkeypatch), "--asyncio-mode", "auto", "--e2b-template", "base", "--e2b-keep-failed"]
    result = suite.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"e2b: http://{manager.domain}", "*= E2B sandboxes of failed tests =*"])
    result.stdout.fnmatch_lines([f"  export E2B_DOMAIN={manager.domain} *", "  kruise-agents sandbox shell i*"])
    assert manager.api_key not in result.stdout.str()
    (sandbox_id,) = re.findall(r"sandbox shell (\w+)", result.stdout.str())
    with manager.api() as api:
        assert api.delete(f"/sandboxes/{sandbox_id}").status_code == 204
    assert left_by(suite) == []


def test_a_sandbox_outlives_a_long_look_in_the_debugger(
    suite: pytest.Pytester, manager: RunningManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.makepyfile("""
        def test_fails(e2b_sandbox):
            assert 0
    """)
    info = (
        b"import datetime as d; i = e2b_sandbox.get_info(); print('lives', (i.end_at - i.started_at).seconds // 3600)"
    )
    result = suite.run(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "auto", "--pdb"),
        *on(manager, monkeypatch),
        stdin=info + b"\nc\n",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*lives 1*"])


@pytest.mark.live
def test_a_suite_that_uses_no_fixture_imports_nothing_for_them(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import sys

        def test_imports(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("kruise-agents")
            unwanted = ("e2b", "httpx", "click", "starlette", "kruise_agents.")
            found = {name for name in sys.modules if name.startswith(unwanted)}
            assert found == {"kruise_agents.pytest_plugin", "kruise_agents.pytest_plugin.plugin"}
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--e2b-http"], "--e2b-http needs --e2b-domain"),
        (
            ["--e2b-domain", "your.domain"],
            "--e2b-domain needs the manager's key in the environment variable E2B_API_KEY",
        ),
    ],
)
def test_options_that_do_not_go_together(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.delenv("E2B_API_KEY", raising=False)
    result = pytester.runpytest_inprocess(*arguments, "-p", "no:asyncio")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}*"])


def test_a_domain_with_a_scheme_is_refused(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", "key")
    result = pytester.runpytest_inprocess("--e2b-domain", "https://your.domain", "-p", "no:asyncio")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --e2b-domain: * has a scheme*"])


@pytest.mark.live
def test_a_folder_whose_keeper_was_killed_ends_with_its_run(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    folder = RunFolder(tmp_path / "folder", os.getpid())
    folder.make()
    (folder.path / "keeper.pid").write_text(str(killed.pid))
    folder.end()
    assert not folder.path.exists()


def test_a_folder_without_a_manager_ends_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = RunFolder.of_this_process()
    folder.end()
    assert list(tmp_path.iterdir()) == []
    folder.note("section", "one")
    folder.note("section", "two\nlines")
    assert folder.notes() == {"section": ["one", "two\nlines"]}
    assert folder.path.stat().st_mode & 0o77 == 0
    folder.end()
    assert list(tmp_path.iterdir()) == []
