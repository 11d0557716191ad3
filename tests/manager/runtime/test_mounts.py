"""Mounts of the host, which are often shared: what is mounted and unmounted for sandboxes stays out of there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.managers import one_user_because

pytestmark = pytest.mark.needs("namespaces")
PROGRAM = Path(__file__).parents[1] / "programs" / "shared_mounts.py"
PATH = f"{os.environ['PATH']}:/usr/sbin"
OWN_MOUNTS = ["unshare", "--mount", "--propagation", "private"]
AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
"""Options with which an ordinary user is root in the namespace, and may mount there."""


CASES = [
    *("none several --prefork", "none one --prefork", "none several --no-prefork", "none one --no-prefork"),
    *("slirp4netns several --prefork", "slirp4netns one --prefork", "pasta several --prefork"),
]
"""Arguments of programs/shared_mounts.py: the carrier of packets, the users of a sandbox, forked or executed."""


@pytest.fixture(scope="module", params=CASES)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of programs/shared_mounts.py."""
    carrier, users, prefork = request.param.split()
    needed = ["unshare", "mount", *([carrier] if carrier != "none" else [])]
    if missing := [name for name in needed if shutil.which(name, path=PATH) is None]:
        pytest.skip(f"{', '.join(missing)} not installed")
    if carrier != "none" and not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun is closed to this user")
    if users == "several" and (AS_ROOT or one_user_because()):
        pytest.skip("sandboxes have one user")
    folder = tmp_path_factory.mktemp("mounts")
    command = [*OWN_MOUNTS, *AS_ROOT, sys.executable, str(PROGRAM), carrier, users, prefork, str(folder)]
    environment = {**os.environ, "PATH": PATH, "PYTHONPATH": str(PROGRAM.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["internet"] == carrier
    return result


def test_mounts_of_the_host_stay(found: dict[str, Any]) -> None:
    assert found["lost"] == []
    assert found["left"] == []


def test_what_the_host_mounts_later_does_not_appear_in_sandboxes_that_run(found: dict[str, Any]) -> None:
    assert found["earlier"] == "0\n"


def test_what_the_host_has_mounted_is_read_only_in_sandboxes(found: dict[str, Any]) -> None:
    assert found["later"] == "1\n"
