"""Templates from a folder: each feature in a real sandbox, and every mistake named at the start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.runtime import MIB, Limits
from kruise_agents.manager.templates import read_templates
from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, available_runtime, running_manager, serve_command, wait_for
from support.templates import make_wheel

SERVER = """
start = "echo begun; COLOUR=$COLOUR exec python -m http.server 18080 --bind 127.0.0.1 --directory ~/site"

[variables]
COLOUR = "blue"
TASTE = "sweet"

[files]
"~/site/hello.txt" = "hello.txt"
"/home/user/site/folder" = "folder"

[ready]
url = "http://localhost:18080/hello.txt"
"""
BROKEN = """
start = "echo about to fail >&2; exit 7"

[ready]
port = 18081
seconds = 20
"""
SLOW = """
start = "echo still at it; exec sleep 600"

[ready]
command = "test -e ~/never"
seconds = 1
"""
DAEMON = """
start = "python -m http.server 18083 --bind 127.0.0.1 > /dev/null 2>&1 &"

[ready]
command = "echo > /dev/tcp/127.0.0.1/18083"
"""
ML = """
requirements = ["greeter==1.0"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of templates."""
    folder = tmp_path_factory.mktemp("templates")
    for name, text in (("web", SERVER), ("broken", BROKEN), ("slow", SLOW), ("daemon", DAEMON), ("ml", ML)):
        (folder / f"{name}.toml").write_text(text)
    (folder / "hello.txt").write_text("hello from the template")
    (folder / "types.py").write_text("raise SystemExit('pip must not import this')")
    (folder / "folder").mkdir()
    (folder / "folder" / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "folder" / "run.sh").chmod(0o755)
    make_wheel(folder)
    return folder


@pytest.fixture(scope="module")
def manager(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    state = tmp_path_factory.mktemp("manager")
    prelude = f"import os; os.environ.update(PIP_NO_INDEX='1', PIP_FIND_LINKS={str(folder)!r})"
    with running_manager(state, "--templates", str(folder), prelude=prelude) as running:
        yield running


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


def create(manager: RunningManager, template: str, **options: object) -> Sandbox:
    return Sandbox.create(template, domain=manager.domain, api_key=manager.api_key, **options)


def test_the_start_command_runs_and_is_ready_when_the_sandbox_is(manager: RunningManager) -> None:
    with create(manager, "web") as sandbox:
        fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:18080/hello.txt').read().decode())"
        assert sandbox.run_code(fetch).logs.stdout == ["hello from the template\n"]
        assert "http.server" in sandbox.commands.run("ps -ef").stdout
        assert sandbox.get_info().template_id == "web"


def test_variables_reach_commands_and_code_and_those_of_the_call_win(manager: RunningManager) -> None:
    with create(manager, "web", envs={"COLOUR": "red"}) as sandbox:
        assert sandbox.commands.run("echo $COLOUR $TASTE").stdout == "red sweet\n"
        assert sandbox.run_code("import os; os.environ['COLOUR'] + os.environ['TASTE']").text == "redsweet"


def test_files_lie_in_the_sandbox_with_their_modes_and_belong_to_the_user(manager: RunningManager) -> None:
    with create(manager, "web") as sandbox:
        assert sandbox.commands.run("site/folder/run.sh").stdout == "ran\n"
        sandbox.files.write("site/hello.txt", "changed")
        assert sandbox.commands.run("cat site/hello.txt").stdout == "changed"
    with create(manager, "web") as other:
        assert other.files.read("site/hello.txt") == "hello from the template"


def test_a_snapshot_of_one_starts_its_command_again(manager: RunningManager) -> None:
    with create(manager, "web") as sandbox, manager.api() as api:
        sandbox.files.write("site/hello.txt", "changed")
        made = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).raise_for_status().json()
    with create(manager, made["snapshotID"]) as other:
        assert other.commands.run("curl -s localhost:18080/hello.txt || cat site/hello.txt").stdout == "changed"
        assert "http.server" in other.commands.run("ps -ef").stdout


def test_one_that_boots_from_its_files_starts_its_command_again(manager: RunningManager) -> None:
    with create(manager, "web", envs={"COLOUR": "red"}) as sandbox, manager.api() as api:
        api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": False}).raise_for_status()
        again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
        assert "http.server" in again.commands.run("ps -ef").stdout
        assert again.commands.run("echo $COLOUR $TASTE").stdout == "red sweet\n"


def test_a_start_command_may_end_and_leave_a_server(manager: RunningManager) -> None:
    with create(manager, "daemon") as sandbox:
        listed = sandbox.commands.run("ps -eo stat,args").stdout
        assert "http.server 18083" in listed
        assert not [line for line in listed.splitlines() if line.startswith("Z")]


def test_a_start_command_that_fails_is_told_with_its_last_output(manager: RunningManager) -> None:
    with manager.api() as api:
        answer = api.post("/sandboxes", json={"templateID": "broken"})
    assert answer.status_code == 500
    assert "ended with code 7" in answer.json()["message"]
    assert "about to fail" in answer.json()["message"]


def test_a_check_that_never_comes_true_is_told_with_the_last_output(manager: RunningManager) -> None:
    with manager.api() as api:
        answer = api.post("/sandboxes", json={"templateID": "slow"})
        assert api.get("/v2/sandboxes").json() == []
    assert answer.status_code == 500
    assert "'test -e ~/never' did not succeed within 1 seconds" in answer.json()["message"]
    assert "still at it" in answer.json()["message"]


def test_requirements_are_there_with_their_commands(manager: RunningManager) -> None:
    with create(manager, "ml") as sandbox:
        assert sandbox.run_code("import greeter; greeter.main()").logs.stdout == ["greetings\n"]
        assert sandbox.commands.run("greet").stdout == "greetings\n"
        other_python = "python -m venv --without-pip v && . v/bin/activate"
        assert sandbox.commands.run(f"{other_python} && greet && greet-twice").stdout == "greetings\n" * 3
    with create(manager, "code-interpreter-v1") as other:
        assert other.run_code("import greeter").error is not None


def test_templates_are_listed_and_known(manager: RunningManager) -> None:
    with manager.api() as api:
        names = [template["names"][0] for template in api.get("/templates").json()]
        assert names == ["base", "broken", "code-interpreter", "code-interpreter-v1", "daemon", "ml", "slow", "web"]
        assert api.get("/templates/aliases/web").json() == {"templateID": "web", "public": True}


@pytest.mark.live
def test_a_prepared_template_is_kept_until_something_in_it_changes(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    (own / "one.toml").write_text('[files]\n"~/a" = "a"\n')
    (own / "a").write_text("1")
    prepared = tmp_path / "state" / "prepared"

    def trees() -> list[tuple[str, int]]:
        return [(path.name, path.stat().st_ino) for path in prepared.iterdir()]

    with running_manager(tmp_path, "--templates", str(own)):
        first = trees()
    with running_manager(tmp_path, "--templates", str(own)):
        assert trees() == first
    (own / "a").write_text("2")
    with running_manager(tmp_path, "--templates", str(own)) as manager:
        assert len(trees()) == 1
        assert trees() != first
        with create(manager, "one") as sandbox:
            assert sandbox.files.read("a") == "2"


@pytest.mark.live
def test_a_template_has_a_pool_whose_start_command_runs_already(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    text = SERVER.partition("[files]")[0] + "[ready]\nport = 18082\n"
    (own / "web.toml").write_text("pool = 1\n" + text.replace("18080", "18082").replace(" --directory ~/site", ""))
    with running_manager(tmp_path, "--templates", str(own)) as manager:
        waiting = manager.state_dir / "sandboxes"
        wait_for(lambda: any(waiting.iterdir()), 30, "a warm sandbox")
        with create(manager, "web", envs={"TASTE": "sour"}) as sandbox:
            assert "http.server" in sandbox.commands.run("ps -ef").stdout
            assert sandbox.commands.run("echo $COLOUR $TASTE").stdout == "blue sour\n"


@pytest.mark.live
def test_requirements_that_cannot_be_installed_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "ml.toml").write_text('requirements = ["no-such-thing-here==1"]\n')
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PIP_NO_INDEX": "1"}
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "s"), "--templates", str(tmp_path / "t"))
    command += ["--runtime", available_runtime()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "template ml: installing no-such-thing-here==1" in done.stderr
    assert "ml.toml: the requirements cannot be installed" in done.stderr
    assert "no-such-thing-here" in done.stderr.rpartition("pip says")[2]


@pytest.mark.live
def test_every_mistake_in_every_file_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.toml").write_text('pol = 2\nstart = 5\n\n[ready]\nport = 80\nurl = "ftp://x"\n')
    (tmp_path / "t" / "b.toml").write_text('name = "x"\nthis is not toml\n')
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "s"), "--templates", str(tmp_path / "t"))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert not (tmp_path / "s").exists()
    for text in (
        "a.toml:1: unknown key 'pol'; did you mean 'pool'?",
        "a.toml:2: 'start' must be a string, got 5",
        "a.toml:6: 'url' must be like",
        "b.toml:2: ",
    ):
        assert text in done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pool = -1", ":1: 'pool' must be a whole number from 0 to 100, got -1"),
        ("pool = true", ":1: 'pool' must be a whole number"),
        ('name = "No"', ":1: the name 'No' must be made of"),
        ('start = "a"\n[ready]\nseconds = 3', ":2: 'ready' needs one of 'command', 'port' and 'url'"),
        ("[ready]\nport = 3", ":1: 'ready' says when the start command is ready"),
        ('start = "a"\nready = { port = 99999 }', ":2: 'port' must be a whole number from 1 to 65535, got 99999"),
        ('start = "a"\nready.port = "3"', ":2: 'port' must be a whole number"),
        ("[variables]\nA = 5", ":2: 'A' must be a string, got 5"),
        ('[files]\n"/usr/bin/x" = "t.toml"', ":2: '/usr/bin/x' must be a path below ~/"),
        ('[files]\n"~/../x" = "t.toml"', ":2: '~/../x' must be a path below"),
        ('[files]\n"~/x" = "none"', ":2: 'none', for '~/x', is neither a file nor a folder"),
        ('requirements = ["-r x"]', ":1: '-r x' is an option of pip"),
        *(
            (f'requirements = ["{place}"]', f":1: '{place}' is the place of no wheel")
            for place in (
                "./source",
                ".",
                "source-1.0.tar.gz",
                "https://localhost/source-1.0.zip#sha256=ab",
                "source @ file:///srv/source",
                "git+https://localhost/source.whl",
                "https://localhost/a.whl;b.tar.gz",
            )
        ),
        ('requirements = "numpy"', ":1: 'requirements' must be an array of strings"),
        ("memory = 1", ":1: 'memory' must be a whole number from 128 to"),
        ("processes = 1", ":1: 'processes' must be a whole number from 64 to"),
        ('[variables]\n"A=B" = "x"', ":2: 'A=B' cannot be an environment variable"),
        ('start = "a\\u0000b"', ":1: 'start' must not have a zero byte"),
        ('start = "a"\nready = { url = "http://localhost:99999/" }', ":2: 'url' must be like"),
        ("internet = 1", ":1: 'internet' must be true or false, got 1"),
        ('pool = 1\nrootfs = "x"', ":2: 'x' is no folder in "),
        ("a = 1\na = 2", ":2: Cannot overwrite a value"),
        ("\udcff", ": it is not text in UTF-8"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "t.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigurationError) as caught:
        read_templates(tmp_path, Limits())
    assert f"{tmp_path}/t.toml{problem}" in str(caught.value)


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('name = "x"')
    (tmp_path / "b.toml").write_text('name = "x"')
    with pytest.raises(ConfigurationError, match="the name 'x' is also that of"):
        read_templates(tmp_path, Limits())


def test_an_empty_file_is_a_code_interpreter_and_base_stays_without_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "base.toml").write_text("pool = 1")
    base, mine = read_templates(tmp_path, Limits())
    assert (base.template.code_interpreter, base.pool) == (False, 1)
    assert (mine.template.code_interpreter, mine.pool) == (True, None)


def test_a_template_has_limits_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text("memory = 256\nprocesses = 100")
    (small,) = read_templates(tmp_path, Limits(cpus=3))
    assert small.template.limits == Limits(cpus=3, memory=256 * MIB, processes=100)


def refusal(tmp_path: Path, *options: str) -> str:
    """Return the text with which ``serve`` refuses the templates in ``t``."""
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "s"), "--templates", str(tmp_path / "t"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    return done.stderr


@pytest.mark.live
def test_what_the_process_runtime_cannot_keep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.toml").write_text('pool = 1\ninternet = false\nrootfs = "."\n')
    said = refusal(tmp_path, "--runtime", "process")
    assert "a.toml:2: 'internet = false' is not supported by the runtime 'process'" in said
    assert "a.toml:3: 'rootfs' is not supported by the runtime 'process'" in said


@pytest.mark.needs("namespaces")
def test_internet_that_cannot_be_had_is_said_at_the_start_and_no_create_fails(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "web.toml").write_text("internet = true\ncode_interpreter = false\n")
    with running_manager(tmp_path, "--templates", str(tmp_path / "t"), "--no-internet") as manager:
        assert "web.toml:1: 'internet = true' has no effect; internet access of sandboxes: none" in (
            manager.log.read_text()
        )
        with create(manager, "web") as sandbox:
            assert sandbox.commands.run("echo here").stdout == "here\n"


def test_a_folder_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory"):
        read_templates(tmp_path / "none", Limits())
