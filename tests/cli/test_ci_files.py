"""The files of packaging/ for CI services and containers do what the guide says; their shell is run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kruise_agents.cli.serve import command as serve
from kruise_agents.sandbox.linux.seccomp import refused_calls
from support.documents import ROOT, read_page
from support.kubernetes import read_yaml
from support.managers import (
    PREFORK_VARIABLES,
    assert_ends,
    available_runtime,
    running_manager,
)

PACKAGING = ROOT / "packaging"
ACTION = PACKAGING / "github-action"
CONTAINER = PACKAGING / "container"
SYSTEM_CALLS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
PROGRAM = """
from kruise_agents.patch_e2b import patch_e2b
patch_e2b(False)
from e2b_code_interpreter import Sandbox
with Sandbox.create() as sbx:
    print(sbx.run_code("print('hello world')").logs.stdout[0], end="")
"""


def the_document(path: Path) -> Any:
    (document,) = read_yaml(path)
    return document


def environment(folder: Path, **variables: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder)} | PREFORK_VARIABLES | variables


def bash(script: str, folder: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@contextlib.contextmanager
def ended(folder: Path) -> Iterator[None]:
    """End the manager with this state folder after the block."""
    try:
        yield
    finally:
        connection = folder / "manager.json"
        if connection.exists():
            pid = json.loads(connection.read_text())["pid"]
            os.kill(pid, signal.SIGTERM)
            assert_ends([pid], 20)


@pytest.mark.live
def test_the_action_gives_the_next_steps_a_manager(tmp_path: Path) -> None:
    (tmp_path / "github").touch()
    options = f"--runtime {available_runtime()} --pool 0"
    variables = environment(
        tmp_path, RUNNER_TEMP=str(tmp_path), GITHUB_ENV=str(tmp_path / "github"), LOG="manager.log", OPTIONS=options
    )
    with ended(tmp_path / "kruise-agents"):
        done = subprocess.run(
            ["bash", ACTION / "start.sh"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        given = dict(line.split("=", 1) for line in (tmp_path / "github").read_text().splitlines())
        assert f"::add-mask::{given['E2B_API_KEY']}" in done.stderr
        program = [sys.executable, "-c", PROGRAM]
        step = subprocess.run(program, env=variables | given, capture_output=True, text=True, check=False)
        assert step.stdout == "hello world\n", step.stderr


@pytest.mark.live
def test_the_action_fails_with_the_reason(tmp_path: Path) -> None:
    variables = environment(tmp_path, RUNNER_TEMP=str(tmp_path), LOG="manager.log", OPTIONS="--runtime docker")
    done = bash(f"bash {ACTION}/start.sh", tmp_path, variables)
    assert done.returncode == 1
    assert "'docker' is not one of 'bubblewrap', 'process'" in done.stdout


def test_the_action_uses_each_of_its_inputs() -> None:
    action = the_document(ACTION / "action.yml")
    steps = action["runs"]["steps"]
    used = re.findall(r"inputs\.(\w+)", json.dumps(steps))
    assert sorted(used) == sorted(action["inputs"])
    names = {name for step in steps for name in step.get("env", {})}
    shell = (ACTION / "start.sh").read_text() + "".join(step["run"] for step in steps)
    assert all(re.search(rf"\b{name}\b", shell) for name in names)
    for name in re.findall(r"\$GITHUB_ACTION_PATH/([\w./-]+?)[\[\"]", shell):
        assert (ACTION / name).exists(), name


@pytest.mark.live
@pytest.mark.parametrize("file", ["github-action/action.yml", "gitlab/kruise-agents.gitlab-ci.yml"])
def test_shells_can_read_every_line(file: str) -> None:
    document = the_document(PACKAGING / file)
    lines = [step["run"] for step in document["runs"]["steps"]] if "runs" in document else gitlab_lines()
    assert lines
    for line in lines:
        subprocess.run(["bash", "-n", "-c", line], check=True)


def gitlab_lines() -> list[str]:
    lines: list[str] = the_document(PACKAGING / "gitlab" / "kruise-agents.gitlab-ci.yml")[".kruise-agents"][
        "before_script"
    ]
    return lines


@pytest.mark.live
def test_the_template_for_gitlab_runs_tests_and_leaves_no_manager(tmp_path: Path) -> None:
    install, *lines = gitlab_lines()
    assert shlex.split(install)[:4] == ["python3", "-m", "pip", "install"]
    (tmp_path / "hello.py").write_text(PROGRAM)
    variables = environment(tmp_path, CI_JOB_ID="7", KRUISE_AGENTS_OPTIONS=f"--runtime {available_runtime()} --pool 0")
    script = "\n".join([*lines, "echo $manager > pid", "python3 hello.py"])
    done = bash(script, tmp_path, variables)
    assert (done.returncode, done.stdout) == (0, "hello world\n"), done.stderr
    assert_ends([int((tmp_path / "pid").read_text())], 20)


def test_the_guide_uses_the_files_as_they_are() -> None:
    text = read_page(ROOT / "docs" / "guides" / "ci.md").text
    (uses,) = re.findall(r"uses: openkruise/kruise-agents/([\w/-]+)@", text)
    assert (ROOT / uses / "action.yml").exists()
    (path,) = re.findall(r"kruise-agents/-?/?raw/main/(packaging/gitlab/\S+)|main/(packaging/gitlab/\S+)", text)
    assert (ROOT / next(filter(None, path))).exists()
    assert "extends: .kruise-agents" in text


def test_the_container_keeps_a_filter_of_system_calls() -> None:
    service = the_document(CONTAINER / "compose.yaml")["services"]["kruise-agents"]
    options = dict(option.split("=") for option in service["security_opt"])
    assert options == {"seccomp": "seccomp.json", "apparmor": "unconfined", "systempaths": "unconfined"}
    assert service["ports"] == ["127.0.0.1:7788:7788"]
    assert "privileged" not in service
    assert (CONTAINER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_image_starts_a_manager_that_serves_its_port() -> None:
    text = (CONTAINER / "Containerfile").read_text()
    program, command, *options = json.loads(re.search(r"^CMD (.+)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert (program, command) == ("kruise-agents", "serve")
    with serve.make_context("serve", options) as context:
        assert context.params["host"] == "0.0.0.0"
        assert f"VOLUME {context.params['state_dir']}\n" in text
        assert f"EXPOSE {context.params['port']}\n" in text
    needed = (CONTAINER / "Containerfile.dockerignore").read_text()
    assert all((ROOT / name).exists() for name in re.findall(r"^!(.+)$", needed, re.MULTILINE))


def profile() -> dict[str, int]:
    """Return the error with which each system call fails in the container."""
    document = json.loads((CONTAINER / "seccomp.json").read_text())
    assert document["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {rule["action"] for rule in document["syscalls"]} == {"SCMP_ACT_ERRNO"}
    return {name: rule["errnoRet"] for rule in document["syscalls"] for name in rule["names"]}


def test_the_profile_refuses_what_sandboxes_may_not_do_except_mounts() -> None:
    for_sandboxes = {*("mount", "umount2", "pivot_root", "setns", "open_tree", "move_mount", "fsopen", "fsconfig")}
    for_sandboxes |= {"fsmount", "fspick", "mount_setattr", "quotactl", "quotactl_fd", "sched_setaffinity"}
    assert refused_calls("x86_64").keys() - profile().keys() == for_sandboxes


UNDER_THE_PROFILE = """
import ctypes, os, struct, sys
refused = {refused}
# Load the number of the call; for each refused one, return its error; else allow.
code = [(0x20, 0, 0, 0)]
for number, error in refused.items():
    code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error)]
code.append((0x06, 0, 0, 0x7FFF0000))
libc = ctypes.CDLL(None, use_errno=True)
array = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(array)))
if os.geteuid():
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS: others may set no filter without it
if libc.prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    sys.exit(os.strerror(ctypes.get_errno()))
assert libc.syscall({keyctl}, 0, -3, 0) == -1 and ctypes.get_errno() == 1
"""


@pytest.mark.needs("namespaces")
@pytest.mark.skipif(os.uname().machine != "x86_64" or not SYSTEM_CALLS.exists(), reason="no list of system calls")
def test_sandboxes_work_under_the_profile(tmp_path: Path) -> None:
    numbers = dict(re.findall(r"^#define __NR_(\w+) (\d+)$", SYSTEM_CALLS.read_text(), re.MULTILINE))
    refused = {int(numbers[name]): error for name, error in profile().items()}
    prelude = UNDER_THE_PROFILE.format(refused=refused, keyctl=numbers["keyctl"])
    with running_manager(tmp_path, prelude=prelude) as manager:
        variables = environment(tmp_path, **manager.environment())
        program = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(program, env=variables, capture_output=True, text=True, check=False)
        assert done.stdout == "hello world\n", done.stderr
