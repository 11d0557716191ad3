"""The README's first screen: its program, and the record from a clone to ``hello world``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.documents import ROOT, blocks_run_by, commands, matches
from support.managers import PREFORK_VARIABLES, available_runtime, started_manager


@pytest.mark.live
@pytest.mark.timeout(900)
def test_the_record_runs(tmp_path: Path) -> None:
    first, second, third = (commands(block) for block in blocks_run_by(__file__))
    clone, install, serve = first
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path("~/.cache/pip").expanduser())),
        "KRUISE_AGENTS_PORT": "0",
        "KRUISE_AGENTS_RUNTIME": available_runtime(),
    }
    environment |= PREFORK_VARIABLES
    source = clone.text.replace("https://github.com/openkruise/kruise-agents", f"file://{ROOT} kruise-agents")
    subprocess.run(["bash", "-ec", f"{source}\n{install.text}"], cwd=tmp_path, env=environment, check=True)
    folder = tmp_path / "kruise-agents"
    command = ["bash", "-c", f"exec {serve.text}"]
    with started_manager(command, environment, folder) as (_, said):
        exports = dict(re.findall(r"export (E2B_\w+)=(\S+)", said))
        port = exports["E2B_DOMAIN"].rpartition(":")[2]
        assert matches(f"{serve.output.replace('7788', port)}\n...", said)
        for (program,), variables in ((second, exports), (third, {})):
            run = ["bash", "-ec", program.text]
            done = subprocess.run(
                run, cwd=folder, env=environment | variables, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout) == (0, f"{program.output.strip()}\n"), done.stderr
