"""The scripts for commands of the manager's packages, as files of the manager."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from kruise_agents.manager.runtime.rootfs import commands
from kruise_agents.manager.runtime.rootfs.commands import Commands

PYTHON = PurePosixPath("/home/user/.local/bin/python")
ENTRY = 'import sys\n\nfrom tool.main import cli\n\nif __name__ == "__main__":\n    sys.exit(cli.run())\n'


class Machine:
    """An environment of the manager and system folders, all below one folder."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.packages, self.scripts, self.system = folder / "packages", folder / "scripts", folder / "usr" / "bin"
        self.folder = folder / "commands"
        for made in (self.packages, self.scripts, self.system):
            made.mkdir(parents=True)
        patch.setattr(commands, "SYSTEM_PATH", str(self.system))
        patch.setattr(commands, "_packages", lambda: [self.packages])
        patch.setattr(commands, "_scripts", lambda: self.scripts)

    def install(self, name: str, *points: str, group: str = "console_scripts") -> None:
        info = self.packages / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(points))

    def program(self, folder: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return folder / name

    def written(self, made: Commands) -> list[str]:
        made.update(self.folder)
        return sorted(file.name for file in self.folder.iterdir())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_declared_command_runs_with_the_interpreter_of_the_sandbox(machine: Machine) -> None:
    machine.install("tool", "tool = tool.main:cli.run", "tool-more = tool:more [extra]")
    machine.install("window", "window = tool:window", group="gui_scripts")
    assert machine.written(Commands(PYTHON)) == ["tool", "tool-more", "window"]
    assert (machine.folder / "tool").read_text() == f"#!{PYTHON}\n{ENTRY}"
    assert (machine.folder / "tool").stat().st_mode & 0o777 == 0o755


def test_other_programs_of_packages_are_there_too_but_not_the_interpreter(machine: Machine) -> None:
    machine.install("tool", "tool = tool:main")
    machine.program(machine.scripts, "tool", "#!/env/bin/python\nimport old\n")
    machine.program(machine.scripts, "python3")
    machine.program(machine.scripts, "plain", "#!/env/bin/python3.11\nimport plain\n")
    machine.program(
        machine.scripts, "far", "#!/bin/sh\n'''exec' /a/long/way/bin/python \"$0\" \"$@\"\n' '''\nimport far\n"
    )
    binary = machine.program(machine.scripts, "binary", "no script")
    (machine.scripts / "activate").write_text("not a program")
    assert machine.written(Commands(PYTHON)) == ["binary", "far", "plain", "tool"]
    assert (machine.folder / "binary").readlink() == binary
    assert (machine.folder / "plain").read_text() == f"#!{PYTHON}\nimport plain\n"
    assert (machine.folder / "far").read_text() == f"#!{PYTHON}\nimport far\n"
    assert "from tool import main" in (machine.folder / "tool").read_text()


def test_what_packages_declare_wrongly_is_left_out(machine: Machine) -> None:
    machine.install("tool", "../away = tool:main", "module = tool", "nothing =", "right = tool:main", "odd = a b:c")
    machine.install("half", "half-written")
    (machine.packages / "broken-1.0.dist-info").mkdir()
    (machine.packages / "latin-1.0.dist-info").mkdir()
    (machine.packages / "latin-1.0.dist-info" / "entry_points.txt").write_bytes(b"[console_scripts]\n\xff = a:b\n")
    assert machine.written(Commands(PYTHON)) == ["right"]


def test_packages_that_come_and_go_are_noticed(machine: Machine) -> None:
    made = Commands(PYTHON)
    machine.install("one", "one = one:main")
    assert machine.written(made) == ["one"]
    machine.install("two", "two = two:main")
    assert machine.written(made) == ["one", "two"]
    (machine.packages / "one-1.0.dist-info" / "entry_points.txt").unlink()
    (machine.packages / "one-1.0.dist-info" / "METADATA").unlink()
    (machine.packages / "one-1.0.dist-info").rmdir()
    assert machine.written(made) == ["two"]


def test_a_program_of_the_machine_goes_first_unless_it_is_a_script_for_the_machines_python(machine: Machine) -> None:
    machine.install("tool", "binary = tool:main", "shell = tool:main", "script = tool:main")
    machine.program(machine.scripts, "other", "a program")
    machine.program(machine.system, "binary", "not a script")
    machine.program(machine.system, "other", "not a script")
    machine.program(machine.system, "shell")
    made = Commands(PYTHON)
    assert machine.written(made) == ["script"]
    machine.program(machine.system, "script", "#!/usr/bin/python3\nimport tool\n")
    assert machine.written(made) == ["script"]
    (machine.system / "binary").unlink()
    assert machine.written(made) == ["binary", "script"]


def test_commands_of_a_system_python_go_before_the_systems(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_scripts", lambda: machine.system)
    machine.install("tool", "tool = tool:main")
    for name in ("tool", "of-the-system"):
        machine.program(machine.system, name, "#!/usr/bin/python3\nimport tool\n")
    machine.program(machine.system, "binary", "not a script")
    assert machine.written(Commands(PYTHON)) == ["tool"]


def test_every_program_of_a_root_file_system_goes_first(machine: Machine, tmp_path: Path) -> None:
    machine.install("tool", "script = tool:main", "link = tool:main", "tool = tool:main")
    machine.program(machine.scripts, "binary", "not visible there")
    inside = tmp_path / "rootfs" / machine.system.relative_to("/")
    inside.mkdir(parents=True)
    machine.program(inside, "script", "#!/usr/bin/python3\n")
    (inside / "link").symlink_to("/usr/lib/somewhere")
    assert machine.written(Commands(PYTHON, tmp_path / "rootfs")) == ["tool"]


def test_a_link_that_a_crash_has_left_leads_to_no_change_of_a_program(machine: Machine) -> None:
    binary = machine.program(machine.scripts, "binary", "a program")
    machine.install("tool", "tool = tool:main")
    machine.folder.with_suffix(".new").symlink_to(binary)
    assert machine.written(Commands(PYTHON)) == ["binary", "tool"]
    assert binary.read_text() == "a program"


def test_beside_the_interpreter_of_a_sandbox_nothing_is_replaced(machine: Machine, tmp_path: Path) -> None:
    machine.install("tool", "tool = tool:main", "more = tool:more")
    home = tmp_path / "a home" / "bin"
    home.mkdir(parents=True)
    machine.program(home, "python", '#!/bin/sh\necho "$@"\n')
    machine.program(home, "tool", "of the user")
    Commands().add_to(home)
    assert sorted(file.name for file in home.iterdir()) == ["more", "python", "tool"]
    assert (home / "tool").read_text() == "of the user"
    compile((home / "more").read_text(), "more", "exec")  # Python reads the same file
