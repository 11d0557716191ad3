"""The files of packaging/ fit what they are for; nginx.conf and Caddyfile are run by tests/integration."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kruise_agents.cli.exit_codes import EXIT_RUNTIME, EXIT_USAGE
from kruise_agents.cli.serve import command as serve
from kruise_agents.manager.runtime.limits import cgroups as control_groups
from support.documents import blocks_run_by
from support.managers import PREFORK_VARIABLES, available_runtime, running_manager
from support.page_session import free_port

PACKAGING = Path(__file__).parents[2] / "packaging"
UNIT = PACKAGING / "kruise-agents.service"
BREAK_SANDBOXES = {
    *("NoNewPrivileges", "PrivateDevices", "RestrictNamespaces", "ProtectKernelTunables", "ProtectKernelLogs"),
    *("ProtectKernelModules", "ProtectProc", "ProcSubset", "SystemCallFilter", "SystemCallArchitectures"),
    *("MemoryDenyWriteExecute", "RestrictRealtime", "RestrictSUIDSGID", "RestrictAddressFamilies", "LockPersonality"),
    *(
        "ProtectClock",
        "ProtectHostname",
        "PrivateUsers",
        "PrivateNetwork",
        "DynamicUser",
        "InaccessiblePaths",
        "AmbientCapabilities",
    ),
}
"""Each of them takes something away that sandboxes are made of, or implies NoNewPrivileges in a unit with User=."""

PROGRAM = """
from kruise_agents.patch_e2b import patch_e2b
patch_e2b(False)
from e2b_code_interpreter import Sandbox
with Sandbox.create() as sbx:
    print(sbx.run_code("print('hello world')").logs.stdout[0], end="")
"""


@pytest.fixture
def settings() -> dict[str, str]:
    text = re.sub(r"^#.*\n", "", UNIT.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.partition("=") for line in text.splitlines() if "=" in line]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}


def test_the_unit_starts_a_manager_whose_sandboxes_outlive_it(settings: dict[str, str]) -> None:
    program, command, *options = shlex.split(settings["ExecStart"])
    assert (Path(program).is_absolute(), command) == (True, "serve")
    with serve.make_context("serve", options) as context:
        assert context.params["keep"] is True
        assert context.params["api_keys"] == ()
        assert str(context.params["state_dir"]) == f"/var/lib/{settings['StateDirectory']}"
    assert settings["KillMode"] == "process"


def test_the_unit_does_not_repeat_what_cannot_work(settings: dict[str, str]) -> None:
    assert settings["RestartPreventExitStatus"].split() == [str(EXIT_USAGE), str(EXIT_RUNTIME)]


def test_the_unit_gives_the_manager_the_control_groups_that_it_looks_for(settings: dict[str, str]) -> None:
    assert settings["Delegate"].split() == list(control_groups._CONTROLLERS)
    assert settings["DelegateSubgroup"] == control_groups._OWN


def test_the_unit_leaves_sandboxes_what_they_need(settings: dict[str, str]) -> None:
    assert not BREAK_SANDBOXES & settings.keys()


@pytest.mark.live
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/kruise-agents/bin/kruise-agents", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    # Before systemd 254, as the unit says.
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line and "DelegateSubgroup" not in line]
    assert (done.returncode, complaints) == (0, [])


@pytest.mark.live
def test_what_prometheus_is_told_to_look_at_is_there(tmp_path: Path) -> None:
    rules = (PACKAGING / "prometheus-rules.yml").read_text()
    asked = set(re.findall(r"kruise_agents_[a-z_]+", rules))
    with running_manager(tmp_path, pool=1) as manager:
        page = httpx.get(f"http://{manager.domain}/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    told = {f"{name}_bucket" if kind == "histogram" else name for name, kind in kinds.items()}
    assert asked
    assert asked <= told


def ci_job(folder: Path, port: int) -> subprocess.CompletedProcess[str]:
    (block,) = blocks_run_by(__file__)
    script = block.text.replace("7788", str(port)).replace("-m pytest", "test_hello.py")
    script = script.replace("kruise-agents serve", f"kruise-agents serve --runtime {available_runtime()}")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
    } | PREFORK_VARIABLES
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.live
@pytest.mark.parametrize("fails", [False, True])
def test_the_shell_lines_for_ci_run_tests_and_leave_nothing(fails: bool, tmp_path: Path) -> None:
    failing = "\nraise SystemExit(7)" if fails else ""
    (tmp_path / "test_hello.py").write_text(PROGRAM + failing)
    done = ci_job(tmp_path, free_port())
    log = (tmp_path / "manager.log").read_text()
    assert (done.returncode, done.stdout) == (7 if fails else 0, "hello world\n"), done.stderr + log
    assert "ending all sandboxes" in log


@pytest.mark.live
def test_a_ci_job_whose_port_has_another_manager_ends_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "test_hello.py").write_text(PROGRAM)
    (tmp_path / "other").mkdir()
    with running_manager(tmp_path / "other", pool=0) as other:
        done = ci_job(tmp_path, other.port)
    assert (done.returncode, "hello world" in done.stdout) == (1, False), done.stderr
    assert f":{other.port} is in use" in done.stdout


@pytest.mark.live
def test_jobs_on_one_machine_take_free_ports(tmp_path: Path) -> None:
    (tmp_path / "test_hello.py").write_text(PROGRAM)
    (tmp_path / "manager.log").write_text(f"kruise-agents: sandbox-manager on http://localhost:{free_port()}\n")
    done = ci_job(tmp_path, 0)
    assert (done.returncode, done.stdout) == (0, "hello world\n"), done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed")
def test_prometheus_understands_its_rules() -> None:
    command = ["promtool", "check", "rules", str(PACKAGING / "prometheus-rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
