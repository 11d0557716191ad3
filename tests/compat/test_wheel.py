"""The installed wheel, without a clone."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from support.environments import ROOT, sdk_environment
from support.managers import PREFORK_VARIABLES, available_runtime, started_manager

pytestmark = pytest.mark.live


@pytest.mark.timeout(600)
def test_serve_and_the_program_of_the_readme_run_from_the_wheel(tmp_path: Path) -> None:
    python = sdk_environment("local")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | PREFORK_VARIABLES
    command = [str(python.parent / "kruise-agents"), "serve", "--port", "0", "--runtime", available_runtime()]
    with started_manager(command, environment, tmp_path) as (manager, said):
        environment |= dict(re.findall(r"export (E2B_\w+)=(\S+)", said))
        example = ROOT / "examples" / "hello.py"
        done = subprocess.run(
            [str(python), str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "hello world" in done.stdout
    assert manager.returncode == 0
