"""Templates with a root file system of their own: its programs, and nothing of this machine's."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import (
    NO_IDENTITIES,
    RunningManager,
    one_user_because,
    running_manager,
    serve_command,
    wait_for,
)
from support.templates import PROGRAMS, make_root_file_system, make_wheel

pytestmark = [
    pytest.mark.needs("namespaces"),
    pytest.mark.skipif(shutil.which("ldd") is None, reason="ldd is not installed"),
]
OWN = "/.kruise-agents"
# What every sandbox has, whatever its root file system.
GENERATED_ETC = (
    *("environment", "group", "hostname", "hosts", "nsswitch.conf", "passwd", "profile", "resolv.conf", "shadow"),
    *("ld.so.preload", "os-release", "pam.d/other", "skel/.bashrc", "skel/.profile"),
)


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of templates, with a root file system and a secret beside them."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "secret").write_text("of the machine")
    small = make_root_file_system(folder / "small")
    (small / "etc/resolv.conf").symlink_to(folder / "secret")
    (small / "etc/hosts").symlink_to("../../secret")
    (small / "srv").symlink_to(folder)
    (small / "usr/local/bin").mkdir(parents=True)
    (small / "usr/local/bin/uvicorn").write_text("#!/bin/sh\necho that of the root file system\n")
    (small / "usr/local/bin/uvicorn").chmod(0o755)
    make_wheel(folder)
    (folder / "small.toml").write_text('rootfs = "small"\n')
    (folder / "full.toml").write_text(
        'rootfs = "small"\nrequirements = ["greeter==1.0"]\npool = 1\nstart = "only-here > ~/started"\n'
        '[files]\n"/opt/tool/data" = "secret"\n"~/.bashrc" = "secret"\n'
    )
    return folder


@pytest.fixture(scope="module", params=["several users", "one user"])
def manager(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningManager]:
    if request.param == "several users" and one_user_because():
        pytest.skip(f"sandboxes have one user: {one_user_because()}")
    prelude = f"import os; os.environ.update(PIP_NO_INDEX='1', PIP_FIND_LINKS={str(folder)!r})\n"
    prelude += NO_IDENTITIES if request.param == "one user" else ""
    state = tmp_path_factory.mktemp("manager")
    with running_manager(state, "--templates", str(folder), prelude=prelude) as running:
        yield running


def create(manager: RunningManager, template: str = "small") -> Sandbox:
    return Sandbox.create(template, domain=manager.domain, api_key=manager.api_key)


def said(sandbox: Sandbox, command: str, user: str = "root") -> str:
    return sandbox.commands.run(f"({command}) 2>&1; true", user=user, timeout=60).stdout


def test_its_programs_are_there_and_those_of_the_machine_are_not(manager: RunningManager) -> None:
    with create(manager) as sandbox:
        assert sandbox.commands.run("only-here").stdout == "a program of its own\n"
        assert set(said(sandbox, "ls /usr/bin").split()) == {*PROGRAMS, "only-here"}
        assert "only-here" in sandbox.run_code("import os; os.listdir('/usr/bin')").text


def test_the_python_in_it_is_that_of_every_sandbox(manager: RunningManager) -> None:
    with create(manager) as sandbox:
        run = sandbox.run_code(
            "import subprocess, sys, zmq, ssl, sqlite3\n"
            "print(subprocess.run([sys.executable, '-c', 'import zmq; print(6 * 7)'], capture_output=True).stdout)\n"
            "from multiprocessing import get_context\n"
            "with get_context('spawn').Pool(1) as pool:\n"
            "    print(pool.map(abs, [-5]))\n"
            "print(subprocess.run(['only-here'], capture_output=True, text=True).stdout)\n"
        )
        assert run.error is None
        assert "".join(run.logs.stdout) == "b'42\\n'\n[5]\na program of its own\n\n"
        assert sandbox.commands.run("python -m venv --without-pip v && v/bin/python -c 'import sys; print(sys.prefix)'")
        assert sandbox.commands.run("v/bin/python -c 'import sys; print(sys.prefix)'").stdout == "/home/user/v\n"
        assert sandbox.commands.run("pip --version").stdout.startswith("pip ")


def test_commands_of_the_managers_packages_are_there_unless_it_has_a_program_of_that_name(
    manager: RunningManager,
) -> None:
    version = importlib.metadata.version
    with create(manager) as sandbox:
        for user in ("user", "root"):
            assert said(sandbox, "ipython --version", user) == f"{version('ipython')}\n"
            assert said(sandbox, "uvicorn", user) == "that of the root file system\n"
        assert sandbox.run_code("!ipython --version").logs.stdout[0].split() == [version("ipython")]
        assert version("kruise-agents") in said(sandbox, "kruise-agents --version")


def test_nothing_of_the_machines_system_folders_is_there(manager: RunningManager, folder: Path) -> None:
    with create(manager) as sandbox:
        inside = set(said(sandbox, "find /usr ! -type d | sort").split())
        small = folder / "small"
        assert inside == {f"/{path.relative_to(small)}" for path in (small / "usr").rglob("*") if not path.is_dir()}
        settings = set(said(sandbox, "find /etc ! -type d").split())
        assert settings == {f"/etc/{name}" for name in GENERATED_ETC}
        for host_file in ("/etc/debian_version", "/etc/services", str(folder / "secret")):
            assert "No such file" in said(sandbox, f"cat {host_file}")


def test_of_the_machine_only_the_managers_python_is_mounted(manager: RunningManager, folder: Path) -> None:
    with create(manager) as sandbox:
        mounts = [line.split() for line in said(sandbox, "cat /proc/self/mountinfo").splitlines()]
        outside = {place: root for _, _, _, root, place, *_ in mounts if root != "/"}
        for place, root in outside.items():
            of_the_sandbox = str(manager.state_dir) in root or str(folder / "small") in root
            assert root not in ("/usr", "/etc", "/usr/bin", "/usr/lib"), place
            assert of_the_sandbox or place.startswith((f"{OWN}/", "/proc/", "/dev/", "/sys/devices/system/cpu")), place
        options = {place: options.split(",") for _, _, _, _, place, options, *_ in mounts}
        assert all("ro" in options[place] for place in options if place.startswith((OWN, "/usr")))


def test_what_it_changes_is_its_own(manager: RunningManager, folder: Path) -> None:
    with create(manager) as sandbox, create(manager) as other:
        for file in ("/opt/tool/data", "/app/readme", "/var/lib/thing/state", "/etc/os-release"):
            assert said(sandbox, f"echo changed > {file} && cat {file}") == "changed\n"
            assert said(other, f"cat {file}") == (folder / "small" / file[1:]).read_text() != "changed\n"
        assert "Read-only file system" in said(sandbox, "touch /usr/bin/x")
        assert said(sandbox, "ls /home").split() == ["user"]


def test_its_accounts_join_those_of_every_sandbox(manager: RunningManager) -> None:
    with create(manager) as sandbox:
        assert said(sandbox, "id daemon") == "uid=1(daemon) gid=1 groups=1\n"
        assert (
            said(sandbox, "grep -c . /etc/passwd; grep ubuntu /etc/passwd /etc/group; grep secret /etc/shadow") == "4\n"
        )
        assert said(sandbox, "grep staff /etc/group") == "staff:x:50:\n"
        assert sandbox.commands.run("sudo only-here").stdout == "a program of its own\n"


def test_its_links_lead_nowhere_outside(manager: RunningManager, folder: Path) -> None:
    assert (folder / "secret").read_text() == "of the machine"
    with create(manager) as sandbox:
        assert "of the machine" not in said(sandbox, "cat /etc/resolv.conf /etc/hosts /srv/secret")
        assert sandbox.files.read("/etc/resolv.conf").startswith("nameserver ")


def test_everything_else_of_a_template_goes_with_it(manager: RunningManager) -> None:
    waiting = manager.state_dir / "sandboxes"
    wait_for(lambda: any(waiting.iterdir()), 60, "a warm sandbox")
    with create(manager, "full") as sandbox:
        assert sandbox.files.read("started") == "a program of its own\n"
        assert sandbox.files.read("/opt/tool/data") == sandbox.files.read(".bashrc") == "of the machine"
        assert sandbox.run_code("import greeter; greeter.main()").logs.stdout == ["greetings\n"]
        assert sandbox.commands.run("greet").stdout == "greetings\n"


def test_a_snapshot_and_a_boot_from_files_have_it_too(manager: RunningManager) -> None:
    with create(manager) as sandbox, manager.api() as api:
        said(sandbox, "echo changed > /app/readme")
        made = api.post(f"/sandboxes/{sandbox.sandbox_id}/snapshots", json={}).raise_for_status().json()
        with create(manager, made["snapshotID"]) as copy:
            assert said(copy, "only-here; cat /app/readme") == "a program of its own\nchanged\n"
            assert copy.run_code("6 * 7").text == "42"
        api.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json={"memory": False}).raise_for_status()
        again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
        assert said(again, "only-here; cat /app/readme") == "a program of its own\nchanged\n"
        assert again.run_code("6 * 7").text == "42"


def test_the_next_manager_takes_it_over(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    (own / "small.toml").write_text(f"rootfs = {str(folder / 'small')!r}\n")
    with running_manager(tmp_path, "--templates", str(own), "--keep") as first:
        sandbox_id = create(first).sandbox_id
    with running_manager(tmp_path, "--templates", str(own)) as second:
        sandbox = Sandbox.connect(sandbox_id, domain=second.domain, api_key=second.api_key)
        assert sandbox.commands.run("only-here").stdout == "a program of its own\n"
        assert sandbox.run_code("6 * 7").text == "42"


def test_a_root_file_system_that_has_gone_is_told(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    shutil.copytree(folder / "small", tmp_path / "small", symlinks=True)
    (own / "small.toml").write_text('rootfs = "../small"\n')
    with running_manager(tmp_path, "--templates", str(own)) as manager, manager.api() as api:
        (tmp_path / "small").rename(tmp_path / "away")
        answer = api.post("/sandboxes", json={"templateID": "small"})
        assert answer.status_code == 500
        assert f"its root file system {tmp_path}/small is not there any more" in answer.json()["message"]


def refusal(tmp_path: Path, rootfs: Path, *options: str) -> str:
    """Return the text with which ``serve`` refuses a template with this root file system."""
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.toml").write_text(f"pool = 1\nrootfs = {str(rootfs)!r}\n")
    command = serve_command("--port", "0", "--templates", str(tmp_path / "t"), *options)
    if "--state-dir" not in options:
        command += ["--state-dir", str(tmp_path / "s")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert f"a.toml:2: the root file system {rootfs} cannot be used: " in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("usr", "it has no folder 'usr'; a root file system is made with `mmdebstrap"),
        ("usr/bin/sh", "its /bin/sh does not run; is it whole, and for this kind of processor?"),
        ("usr/bin/bash", "its /bin/bash does not run; install bash in it"),
    ],
)
def test_what_is_missing_in_it_is_named_at_the_start(folder: Path, tmp_path: Path, missing: str, reason: str) -> None:
    small = shutil.copytree(folder / "small", tmp_path / "small", symlinks=True)
    (small / missing).rename(tmp_path / "away")
    assert reason in refusal(tmp_path, small)


def test_the_machines_own_is_refused(tmp_path: Path) -> None:
    assert "it is this machine's own; leave 'rootfs' out" in refusal(tmp_path, Path("/"))


def test_one_with_the_state_folder_in_it_is_refused(folder: Path, tmp_path: Path) -> None:
    small = shutil.copytree(folder / "small", tmp_path / "small", symlinks=True)
    assert "lies in it; choose another with --state-dir" in refusal(tmp_path, small, "--state-dir", str(small / "s"))


def test_a_change_in_what_is_copied_is_seen_at_the_next_start(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    small = shutil.copytree(folder / "small", tmp_path / "small", symlinks=True)
    (own / "small.toml").write_text('rootfs = "../small"\n')
    with running_manager(tmp_path, "--templates", str(own)):
        first = [path.name for path in (tmp_path / "state/prepared").iterdir()]
    (small / "app/readme").write_text("another one")
    with running_manager(tmp_path, "--templates", str(own)) as manager:
        assert [path.name for path in (manager.state_dir / "prepared").iterdir()] != first
        with create(manager) as sandbox:
            assert said(sandbox, "cat /app/readme") == "another one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; test_without_root.py runs it again")
def test_what_may_not_be_read_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    small = shutil.copytree(folder / "small", tmp_path / "small", symlinks=True)
    (own / "small.toml").write_text('rootfs = "../small"\n')
    for closed in (small / "app/readme", small / "var/lib/thing"):
        closed.chmod(0)
    with running_manager(tmp_path, "--templates", str(own)) as manager:
        said_at_start = f"left out, because this user may not read it: {small}/app/readme, and 1 more"
        assert said_at_start in manager.log.read_text()
        with create(manager) as sandbox:
            assert said(sandbox, "ls /app /var/lib/thing; cat /opt/tool/data").endswith("of the tool")
    (small / "var/lib/thing").chmod(0o755)


@pytest.mark.skipif("KRUISE_AGENTS_TEST_ROOTFS" not in os.environ, reason="KRUISE_AGENTS_TEST_ROOTFS names no folder")
def test_a_whole_distribution_works(tmp_path: Path) -> None:
    """The tree is made by hand, because that takes minutes: ``mmdebstrap --variant=minbase bookworm FOLDER``."""
    own = tmp_path / "templates"
    own.mkdir()
    (own / "whole.toml").write_text(f"rootfs = {os.environ['KRUISE_AGENTS_TEST_ROOTFS']!r}\n")
    with running_manager(tmp_path, "--templates", str(own)) as manager, create(manager, "whole") as sandbox:
        assert sandbox.run_code("6 * 7").text == "42"
        assert "ii  bash" in said(sandbox, "dpkg -l bash")
        assert said(sandbox, "su user -c 'id -un'") == "user\n"
