"""Clients that others wrote, from their own packages, in environments of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.environments import ROOT, client_environment
from support.managers import RunningManager, one_user_because
from support.namespaces import in_network_namespace
from support.programs import run_command

PROGRAMS = Path(__file__).parent / "programs"
STAGE = ROOT / "tests" / "integration" / "stage.py"

pytestmark = [
    pytest.mark.needs("namespaces"),
    pytest.mark.timeout(300),
]


@pytest.mark.parametrize(
    ("client", "program"), [("smolagents", "smolagents_executor.py"), ("openai-agents", "openai_agents_sandbox.py")]
)
def test_what_the_client_does_works_with_the_patch(
    client: str, program: str, manager: RunningManager, tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ACCESS": "http"}
    environment |= {"ONE_USER": one_user_because() or ""} | manager.environment()
    run_command(pytest_of(client, program), environment, ROOT)


def test_ports_that_openai_agents_exposes_are_reached_natively(tmp_path: Path) -> None:
    stage = [sys.executable, str(STAGE), "native", str(tmp_path), "bubblewrap", "env", "ONE_USER="]
    command = [*stage, *pytest_of("openai-agents", "openai_agents_sandbox.py", "-k", "exposed")]
    run_command(in_network_namespace(command, tmp_path), os.environ, ROOT)


def pytest_of(client: str, program: str, *options: str) -> list[str]:
    python = client_environment(client)
    return [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PROGRAMS / program), *options]
