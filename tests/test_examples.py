"""Every program of examples/ prints what its own text says, on a real manager."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.documents import ROOT, read_page
from support.environments import client_environment, javascript_packages
from support.managers import PREFORK_VARIABLES, RunningManager, running_manager
from support.programs import run_command

EXAMPLES = ROOT / "examples"
LONGEST = 60
# Programs that another test starts in its own way, as they need more than a manager.
SPECIAL = {"agent_framework.py", "asynchronous.py", "template/use_template.py", "unchanged.py"}
PROGRAMS = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py") if path.parent.name != "pytest"}

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.timeout(200)]


@pytest.mark.parametrize("name", sorted(PROGRAMS - SPECIAL))
def test_a_program_prints_what_its_text_says(name: str, manager: RunningManager, tmp_path: Path) -> None:
    printed = run(sys.executable, EXAMPLES / name, manager, tmp_path)
    assert printed == stated_output(EXAMPLES / name)


def test_the_asynchronous_program_prints_what_its_text_says(manager: RunningManager, tmp_path: Path) -> None:
    program = EXAMPLES / "asynchronous.py"
    command, environment = [sys.executable, str(program)], environment_of(manager, tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == stated_output(program), done.stderr
    # pyqwest, the SDK's HTTP client, now and then aborts the interpreter at its end, also without the patch.
    assert done.returncode in (0, -signal.SIGABRT), done.stderr


def test_the_agent_framework_runs_in_its_own_environment(manager: RunningManager, tmp_path: Path) -> None:
    program = EXAMPLES / "agent_framework.py"
    assert run(client_environment("smolagents"), program, manager, tmp_path) == stated_output(program)


def test_the_template_is_served_and_used(tmp_path: Path) -> None:
    program = EXAMPLES / "template" / "use_template.py"
    options = ("--templates", str(program.parent / "templates"))
    assert "kruise-agents serve --templates templates\n" in program.read_text()
    with running_manager(tmp_path, *options) as manager:
        assert run(sys.executable, program, manager, tmp_path) == stated_output(program)


@pytest.mark.parametrize("on_a_cluster", [False, True])
def test_the_suite_passes(on_a_cluster: bool, manager: RunningManager, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / "pytest", tmp_path / "pytest", ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--e2b-domain", manager.domain, "--e2b-http"] if on_a_cluster else ["-n", "2"]
    command = [sys.executable, "-m", "pytest", *options]
    assert " 5 passed in " in run_command(command, environment_of(manager, tmp_path) | PREFORK_VARIABLES, folder)


@pytest.mark.needs("node")
def test_the_javascript_edition_runs_by_two_variables(manager: RunningManager, tmp_path: Path) -> None:
    folder = tmp_path / "javascript"
    shutil.copytree(EXAMPLES / "javascript", folder, ignore=shutil.ignore_patterns("node_modules"))
    (folder / "node_modules").symlink_to(javascript_packages())
    text = (folder / "hello.mjs").read_text()
    comment = re.sub(r"^// ?", "", text.partition("\nimport ")[0], flags=re.MULTILINE)
    exports = re.findall(r"^ +(export .+)$", comment, re.MULTILINE)
    assert len(exports) == 2
    script = "\n".join([*exports, "unset E2B_DOMAIN", "exec node hello.mjs"])
    environment = environment_of(manager, tmp_path)
    assert run_command(["bash", "-e", "-c", script], environment, folder) == indented_after(comment, "It prints:")


def test_the_programs_are_short_and_say_how_to_run_them() -> None:
    for name in sorted(PROGRAMS):
        text = (EXAMPLES / name).read_text()
        assert f" python {Path(name).name}\n" in text
        docstring = ast.get_docstring(ast.parse(text), clean=False) or ""
        assert len(text.splitlines()) - len(docstring.splitlines()) < LONGEST, name


def test_the_readme_shows_the_first_program() -> None:
    text = (EXAMPLES / "hello.py").read_text()
    program = text[text.index("\nfrom ") :].strip()
    shown = [block.text for block in read_page(ROOT / "README.md").blocks if block.language == "python"]
    assert any(program in block for block in shown)


def run(python: str | Path, program: Path, manager: RunningManager, folder: Path) -> str:
    return run_command([python, program], environment_of(manager, folder), folder)


def environment_of(manager: RunningManager, folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder)} | manager.environment()


def stated_output(program: Path) -> str:
    docstring = ast.get_docstring(ast.parse(program.read_text()))
    assert docstring is not None
    return indented_after(docstring, "It prints::")


def indented_after(text: str, line: str) -> str:
    """Return the indented block after a line."""
    _, found, after = text.partition(f"{line}\n")
    assert found
    block = re.match(r"(\s*\n|    .*(\n|$))*", after)
    assert block is not None
    return textwrap.dedent(block[0]).strip() + "\n"
