"""A user's type checker sees the public names as typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.live

PROGRAM = """
from kruise_agents.keys import decode_key, encode_key
from kruise_agents.patch_e2b import Patch, patch_e2b, unpatch_e2b
from kruise_agents.patch_traffic_token import (
    TrafficAccessToken,
    patch_traffic_access_token,
    refresh_traffic_access_token,
)
from e2b import AsyncSandbox, Sandbox

with patch_e2b(False, follow_server_domain=True) as patch:
    handle: Patch = patch
    closed: bool = handle.closed
patch_e2b(https=True, validate_key=False).close()
unpatch_e2b()
patch_traffic_access_token()
def token_of(sandbox: Sandbox) -> TrafficAccessToken:
    return refresh_traffic_access_token(sandbox, force=True)
async def token_of_async(sandbox: AsyncSandbox) -> TrafficAccessToken:
    return await refresh_traffic_access_token(sandbox)
key: str = encode_key("raw")
import kruise_agents
import kruise_agents.patch_e2b as module
module.patch_e2b(False).close()
module.unpatch_e2b()
kruise_agents.patch_e2b(False).close()
from kruise_agents import patch_e2b as called
called(False, follow_server_domain=True).close()
called.unpatch_e2b()
called("http")  # type: ignore[arg-type]
patch_e2b("http")  # type: ignore[arg-type]  # unused, and so an error, if it were not typed
"""


def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
