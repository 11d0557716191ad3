"""Commands of the packages in the manager's environment, and pip, in a sandbox."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b.sandbox.commands.command_handle import PtySize
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, available_runtime, one_user_because, running_manager
from support.templates import make_wheel

STARTED = """
start = "greet > ~/started; exec sleep 600"
[ready]
command = "test -s ~/started"
"""
several = pytest.mark.needs("several users")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment like that of the tests, to which tests add packages."""
    environment = tmp_path_factory.mktemp("environment") / "readable"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    own = Path(sysconfig.get_path("purelib"))
    target = environment / own.relative_to(sys.prefix)
    target.rmdir()
    shutil.copytree(own, target, copy_function=_link, symlinks=True)
    _install(python, make_wheel(tmp_path_factory.mktemp("wheels")))
    return python


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _install(python: Path, wheel: Path) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)


@pytest.fixture(scope="module", params=["several users", "one user", "process"])
def manager(
    request: pytest.FixtureRequest, python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningManager]:
    if request.param != "process" and available_runtime() == "process":
        pytest.skip("this machine permits no namespaces")
    if request.param == "several users" and one_user_because():
        pytest.skip(f"sandboxes have one user: {one_user_because()}")
    folder = tmp_path_factory.mktemp("manager")
    (folder / "templates").mkdir()
    (folder / "templates" / "started.toml").write_text(STARTED)
    with running_manager(
        folder,
        *("--templates", str(folder / "templates")),
        runtime="process" if request.param == "process" else None,
        prelude=NO_IDENTITIES if request.param == "one user" else "",
        python=python,
    ) as running:
        yield running


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with patch_e2b(False):
        yield


def isolates(manager: RunningManager) -> bool:
    return "runtime process" not in manager.output


def said(sandbox: Sandbox, command: str, user: str = "user", **options: str) -> str:
    return sandbox.commands.run(f"({command}) 2>&1; true", user=user, **options).stdout.strip()


def cell(sandbox: Sandbox, code: str) -> str:
    execution = sandbox.run_code(code)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout + execution.logs.stderr).strip()


def test_commands_of_the_managers_packages_are_found_in_every_way(manager: RunningManager, sandbox: Sandbox) -> None:
    ways = {
        "a command": said(sandbox, "greet"),
        "root": said(sandbox, "greet", "root"),
        "sudo": said(sandbox, "sudo greet"),
        "a login of root": said(sandbox, "sudo -i greet"),
        "another folder": said(sandbox, "cd /tmp && greet"),
        "a cell": cell(sandbox, "!greet"),
        "a program": cell(sandbox, "import subprocess; print(subprocess.run('greet', capture_output=True).stdout)"),
    }
    assert ways == {**dict.fromkeys(ways, "greetings"), "a program": "b'greetings\\n'"}
    terminal = sandbox.pty.create(PtySize(24, 80), timeout=30)
    sandbox.pty.send_stdin(terminal.pid, b"greet | tr a-z A-Z; exit\n")
    shown: list[bytes] = []
    terminal.wait(on_pty=shown.append)
    assert b"GREETINGS" in b"".join(shown)
    assert said(sandbox, "greet-twice; greet-shell").split("\n") == ["greetings", "greetings", "from the shell"]
    assert "kruise-agents" in said(sandbox, "kruise-agents --version")


def test_the_start_command_of_a_template_finds_them(manager: RunningManager) -> None:
    with Sandbox.create("started", domain=manager.domain, api_key=manager.api_key) as sandbox:
        assert sandbox.files.read("started") == "greetings\n"


def test_they_run_with_what_the_sandbox_has_installed_itself(
    manager: RunningManager, sandbox: Sandbox, tmp_path: Path
) -> None:
    packages = said(sandbox, "python -c \"import sysconfig; print(sysconfig.get_path('purelib'))\"")
    sandbox.files.write(f"{packages}/greeter.py", "def main():\n    print('of the sandbox')\n")
    assert said(sandbox, "greet; greet-twice").split("\n") == ["of the sandbox"] * 3
    wheel = make_wheel(tmp_path, "2.0", "the second")
    sandbox.files.write(wheel.name, wheel.read_bytes())
    sandbox.files.remove(f"{packages}/greeter.py")
    assert "Successfully installed greeter-2.0" in said(sandbox, f"pip install --no-index ./{wheel.name}")
    assert said(sandbox, "greet") == "the second" == said(sandbox, "greet", "root")
    assert "Found existing installation" in said(sandbox, "pip uninstall --yes greeter")
    if isolates(manager):  # there pip has replaced the only script
        assert said(sandbox, "greet") == "greetings"


def test_an_activated_environment_of_the_sandbox_does_not_matter(manager: RunningManager, sandbox: Sandbox) -> None:
    assert said(sandbox, "python -m venv --without-pip v && . v/bin/activate && greet") == "greetings"


@several
def test_a_shell_that_takes_nothing_over_finds_them(manager: RunningManager, sandbox: Sandbox) -> None:
    if not sandbox_has_several(sandbox):
        pytest.skip("this manager's sandboxes have one user")
    assert said(sandbox, "useradd -m bob 2>&1 || true; su - bob -c greet; su - user -c greet", "root") == (
        "greetings\ngreetings"
    )


def sandbox_has_several(sandbox: Sandbox) -> bool:
    return said(sandbox, "id -u", "root") == "0" and said(sandbox, "id -u") == "1000"


def test_a_package_that_comes_while_the_manager_runs(
    manager: RunningManager, sandbox: Sandbox, python: Path, tmp_path: Path
) -> None:
    name = f"late{manager.port}"
    wheel = make_wheel(tmp_path, name=name, command=name, greeting="later")
    assert "not found" in said(sandbox, name)
    _install(python, wheel)
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as later:
        assert said(later, name) == "later" == cell(later, f"!{name}")
        if isolates(manager):
            assert said(sandbox, name) == "later"


def versions(sandbox: Sandbox, folder: Path, *numbers: str) -> None:
    """Put wheels of ``greeter`` into the home, where a version prints its number."""
    for number in numbers:
        wheel = make_wheel(folder, number, number)
        sandbox.files.write(wheel.name, wheel.read_bytes())


def pip_install(home: str, number: str, *options: str) -> str:
    return " ".join(["pip install --no-index", *options, f"{home}/greeter-{number}-py3-none-any.whl"])


def test_code_and_commands_install_into_the_same_folder(
    manager: RunningManager, sandbox: Sandbox, tmp_path: Path
) -> None:
    versions(sandbox, tmp_path, "2", "3", "4", "5")
    home = said(sandbox, "echo ~")
    # Versions of root and of the default user take turns.
    for install, number in (
        (lambda command: cell(sandbox, f"!{command}"), "2"),
        (lambda command: said(sandbox, command), "3"),
        (lambda command: said(sandbox, f"sudo {command}"), "4"),
        (lambda command: said(sandbox, command), "5"),
    ):
        assert f"Successfully installed greeter-{number}" in install(pip_install(home, number))
        assert (
            said(sandbox, "greet; greet-twice")
            == "\n".join([number] * 3)
            == said(sandbox, "greet; greet-twice", "root")
        )
        assert cell(sandbox, "!python -c 'import greeter; greeter.main()'") == number
    cell(sandbox, f"!{pip_install(home, '2', '--force-reinstall')}")
    assert "Successfully uninstalled greeter-2" in said(sandbox, "pip uninstall --yes greeter")
    assert said(sandbox, "pip list --path ~/.local/lib/python3*/site-packages | grep greeter") == ""


def test_an_installation_for_the_user_is_one(manager: RunningManager, sandbox: Sandbox, tmp_path: Path) -> None:
    versions(sandbox, tmp_path, "2", "3", "4", "5")
    home = said(sandbox, "echo ~")
    for user, number in (("cell", "2"), ("user", "3"), ("root", "4"), ("cell", "5")):
        command = pip_install(home, number, "--user")
        installed = cell(sandbox, f"!{command}") if user == "cell" else said(sandbox, command, user)
        assert f"Successfully installed greeter-{number}" in installed
        for other in ("user", "root"):
            assert said(sandbox, "greet; python -c 'import greeter; greeter.main()'", other).split() == [number] * 2
        assert cell(sandbox, "!greet") == number


def test_a_copy_of_a_sandbox_installs_into_the_same_folder_too(
    manager: RunningManager, sandbox: Sandbox, tmp_path: Path
) -> None:
    versions(sandbox, tmp_path, "2", "3")
    snapshot = sandbox.create_snapshot()
    with Sandbox.create(snapshot.snapshot_id, domain=manager.domain, api_key=manager.api_key) as copy:
        home = said(copy, "echo ~")
        cell(copy, f"!{pip_install(home, '2')}")
        assert "Successfully installed greeter-3" in said(copy, pip_install(home, "3"))
        assert said(copy, "greet") == "3" == said(copy, "greet", "root")


def test_no_program_of_ours_imports_from_the_current_folder(
    manager: RunningManager, sandbox: Sandbox, tmp_path: Path
) -> None:
    versions(sandbox, tmp_path, "2")
    home = said(sandbox, "echo ~")
    for module in ("types", "enum", "signal", "json", "greeter", "pip", "site", "sitecustomize", "kruise_agents"):
        sandbox.files.write(f"trap/{module}.py", "raise SystemExit('imported from the current folder')")
    for command, answer in (
        (pip_install(home, "2"), "Successfully installed greeter-2"),
        ("pip3 --version", "pip "),
        ("sudo -n greet", "2"),
        ("greet", "2"),
        ("greet-twice", "2\n2"),
        ("kruise-agents --version", "kruise-agents"),
    ):
        assert answer in said(sandbox, command, cwd=f"{home}/trap"), command
    context = sandbox.create_code_context(cwd=f"{home}/trap")
    assert sandbox.run_code("6 * 7", context=context).text == "42"
    if isolates(manager):
        assert said(sandbox, "greet", "root", cwd=f"{home}/trap") == "2"


@pytest.mark.parametrize("damage", ["rm -rf ~/.local", "rm -rf ~/.local/bin; touch ~/.local/bin"])
def test_a_sandbox_boots_whatever_its_code_has_done_to_the_folder(
    manager: RunningManager, sandbox: Sandbox, damage: str
) -> None:
    said(sandbox, damage)
    sandbox.pause(keep_memory=False)
    with Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key) as booted:
        assert said(booted, "echo here") == "here"


@several
def test_another_user_installs_into_an_own_home(manager: RunningManager, sandbox: Sandbox, tmp_path: Path) -> None:
    if not sandbox_has_several(sandbox):
        pytest.skip("this manager's sandboxes have one user")
    versions(sandbox, tmp_path, "2", "3")
    said(sandbox, "useradd -m bob", "root")
    assert "Successfully installed greeter-2" in said(sandbox, pip_install("~user", "2"), "bob")
    assert "Successfully installed greeter-3" in said(sandbox, pip_install("~user", "3", "--user"), "bob")
    assert said(sandbox, "greet; command -v greet", "bob").split() == ["3", "/home/bob/.local/bin/greet"]
    assert said(sandbox, "python -c 'import greeter; greeter.main()'", "bob") == "3"
    assert said(sandbox, "greet") == "greetings" == said(sandbox, "greet", "root")


@several
def test_another_user_whose_programs_code_starts_does_too(
    manager: RunningManager, sandbox: Sandbox, tmp_path: Path
) -> None:
    if not sandbox_has_several(sandbox):
        pytest.skip("this manager's sandboxes have one user")
    versions(sandbox, tmp_path, "2", "3")
    said(sandbox, "useradd -m bob", "root")
    for number, options in (("2", ()), ("3", ("--user",))):
        command = f"cd ~bob && su bob -c {shlex.quote(pip_install('~user', number, *options))}"
        assert f"Successfully installed greeter-{number}" in cell(sandbox, f"import os\nos.system({command!r})\nNone")
    assert said(sandbox, "greet; command -v greet", "bob").split() == ["3", "/home/bob/.local/bin/greet"]
