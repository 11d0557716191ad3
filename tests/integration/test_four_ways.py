"""The four ways to connect, each as the documents say it, on the oldest and the newest SDK pair, sync and async."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.documents import blocks_run_by
from support.environments import sdk_environment
from support.managers import API_KEY
from support.namespaces import in_network_namespace

STAGE = Path(__file__).parent / "stage.py"
PROGRAM = Path(__file__).parent / "programs" / "walk.py"
CLIENTS = {f"{pair} {mode}": (pair, mode) for pair in ("newest", "oldest") for mode in ("sync", "async")}
# Runs the programs one after the other, and writes the exit code and the output of each into a file.
RUN_EACH = """
import json, pathlib, subprocess, sys
outcomes = {}
for client, command in json.loads(sys.argv[2]).items():
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    outcomes[client] = [done.returncode, done.stdout]
    pathlib.Path(sys.argv[1]).write_text(json.dumps(outcomes))
"""

pytestmark = [pytest.mark.needs("namespaces"), pytest.mark.timeout(400)]  # ports 443 and 80 can only be bound in one


@pytest.fixture(scope="module", params=["native", "private-https", "in-cluster", "in-cluster-7788", "port-forward"])
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of each client, all of them with one manager that is reached in one of the ways."""
    folder = tmp_path_factory.mktemp("stage")
    commands = {client: [str(sdk_environment(pair)), str(PROGRAM), mode] for client, (pair, mode) in CLIENTS.items()}
    each = [sys.executable, "-c", RUN_EACH, str(folder / "outcomes"), json.dumps(commands)]
    command = [sys.executable, str(STAGE), request.param, str(folder), "bubblewrap", *each]
    done = subprocess.run(in_network_namespace(command, folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, tuple[int, str]] = json.loads((folder / "outcomes").read_text())
    return found


@pytest.mark.parametrize("client", CLIENTS)
def test_a_program_of_the_readme_runs(client: str, outcomes: dict[str, tuple[int, str]]) -> None:
    code, output = outcomes[client]
    assert (code, output.splitlines()[-1:]) == (0, ["walked"]), output


@dataclass(frozen=True)
class Written:
    """A way to connect from a page: the shell block with exports, and the call that patches the SDK."""

    place: str
    way: str
    shell: str
    patch: str

    def program(self) -> str:
        imports = "from kruise_agents.patch_e2b import patch_e2b\n" if self.patch else ""
        return f"{imports}{self.patch}\nfrom e2b_code_interpreter import Sandbox\n" + (
            "with Sandbox.create() as sbx:\n    print(sbx.run_code(\"print('hello world')\").logs.stdout[0], end='')\n"
        )

    def script(self, folder: Path) -> str:
        """Return the shell block with the reader's own values filled in; the stage forwards the port."""
        shell = re.sub(r"^(export E2B_API_KEY=).*", rf"\g<1>{API_KEY}", self.shell, flags=re.MULTILINE)
        shell = re.sub(r"^(export SSL_CERT_FILE=).*", rf"\g<1>{folder}/ca.pem", shell, flags=re.MULTILINE)
        shell = re.sub(r"^.*\bkubectl\b.*\n", "", shell, flags=re.MULTILINE)
        return f"unset E2B_DOMAIN E2B_API_KEY SSL_CERT_FILE\n{shell}"


ACCESS = {"": "native", "patch_e2b()": "https", "patch_e2b(False)": "http"}
IN_CLUSTER = "sandbox-manager.sandbox-system.svc.cluster.local"
STAGES = {
    ("your.domain", "native"): "native",
    ("your.domain", "https"): "private-https",
    (IN_CLUSTER, "http"): "in-cluster",
    (f"{IN_CLUSTER}:7788", "http"): "in-cluster-7788",
    ("localhost", "http"): "port-forward",
}


def _written_ways() -> list[Written]:
    """Return the ways in the pages: shell blocks that export a domain, each with the Python block after it."""
    found: list[tuple[str, str, str]] = []
    for block in blocks_run_by(__file__):
        if block.language == "sh":
            found.append((block.place, block.text, ""))
        else:
            place, shell, _ = found[-1]
            found[-1] = (place, shell, block.text.strip())
    ways = []
    for place, shell, patch in found:
        domains = re.findall(r"^export E2B_DOMAIN=(\S+)", shell, re.MULTILINE)
        ways.append(Written(place, STAGES[domains[0], ACCESS[patch]], shell, patch))
    return ways


WRITTEN = _written_ways()


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: f"{written.place} {written.way}")
def test_a_way_works_as_its_page_has_it(written: Written, tmp_path: Path) -> None:
    (tmp_path / "script.sh").write_text(
        f"{written.script(tmp_path)}\nexec {sdk_environment('newest')} {tmp_path}/program.py\n"
    )
    (tmp_path / "program.py").write_text(written.program())
    command = [
        sys.executable,
        str(STAGE),
        written.way,
        str(tmp_path),
        "bubblewrap",
        "bash",
        "-e",
        f"{tmp_path}/script.sh",
    ]
    done = subprocess.run(in_network_namespace(command, tmp_path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "hello world\n"), done.stderr


def test_a_page_has_each_way() -> None:
    assert {written.way for written in WRITTEN} >= {"native", "private-https", "port-forward"}
    assert {written.way for written in WRITTEN} & {"in-cluster", "in-cluster-7788"}
