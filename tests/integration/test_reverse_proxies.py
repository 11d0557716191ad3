"""nginx and Caddy in front of the manager, with the configurations of packaging/, over TLS on the real port."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.namespaces import in_network_namespace

HERE = Path(__file__).parent
WEB_PROGRAMS = HERE.parent / "manager" / "programs"

pytestmark = pytest.mark.needs("namespaces")  # port 443 can only be bound in one


def require(proxy: str) -> None:
    if shutil.which(proxy, path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"{proxy} is not installed")


@pytest.mark.parametrize("program", [["walk.py", "sync"], ["walk.py", "async"], ["long_way.py", str(WEB_PROGRAMS)]])
@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_the_sdk_works_through_it(proxy: str, program: list[str], tmp_path: Path) -> None:
    require(proxy)
    client = [sys.executable, str(HERE / "programs" / program[0]), *program[1:]]
    command = [sys.executable, str(HERE / "stage.py"), proxy, str(tmp_path), "bubblewrap", *client]
    done = subprocess.run(
        in_network_namespace(command, tmp_path), capture_output=True, text=True, timeout=170, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["walked"]), f"{done.stdout}\n{done.stderr}"
