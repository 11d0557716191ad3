"""One cell of the matrix: the program of all surfaces with one pair and one scheme, watched at the wire."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .environments import ROOT, digest, sdk_environment
from .managers import API_KEY, available_runtime
from .recorder import RecordedRequest, Recorder
from .releases import BrokenPair, Pair
from .sdk_folders import import_path_of, python_of

PROGRAMS = ROOT / "tests" / "compat" / "programs"
_SECONDS = 240
_CLIENT_SOURCES = ("client", "protocol", "errors.py", "keys.py", "patch_e2b.py", "patch_traffic_token.py")
_TEST_SOURCES = ("compat/programs/surfaces.py", "support/recorder.py", "support/matrix.py")


@dataclass(frozen=True, slots=True)
class Manager:
    """A manager that serves: its port on loopback, and for https the folder with its certificates."""

    port: int
    tls: Path | None


@dataclass(frozen=True, slots=True)
class Cell:
    """What came out: mode -> surface -> "ok" or what went wrong."""

    pair: Pair
    scheme: str
    results: dict[str, dict[str, str]]
    requests: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Cell:
        data = json.loads(text)
        return Cell(Pair(**data["pair"]), data["scheme"], data["results"], data["requests"])

    @property
    def passed(self) -> bool:
        return all(found == "ok" for results in self.results.values() for found in results.values())


@contextmanager
def serving(folder: Path, scheme: str) -> Iterator[Manager]:
    """The embedded manager, as the built wheel installs it; changes of the sources do not reach it while it runs."""
    folder.mkdir(parents=True)
    state = folder / "state"
    options = ["--port", "0", "--state-dir", str(state), "--runtime", available_runtime()]
    options += ["--tls"] if scheme == "https" else []
    command = [str(sdk_environment("local")), "-m", "kruise_agents", "serve", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KRUISE_AGENTS_API_KEY": API_KEY}
    with (
        (folder / "manager.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if "sandbox-manager on " in line), None)
            if line is None:
                raise RuntimeError(f"the manager ended: {(folder / 'manager.log').read_text()}")
            yield Manager(int(line.strip().rpartition(":")[2]), state / "tls" if scheme == "https" else None)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def run_cell(pair: Pair, scheme: str, manager: Manager) -> Cell:
    """Run the program of all surfaces and check what it sent."""
    with Recorder(upstream=manager.port, tls=manager.tls) as wire:
        environment = _environment(pair) | {"E2B_DOMAIN": wire.domain, "E2B_API_KEY": API_KEY}
        if manager.tls is not None:
            environment["SSL_CERT_FILE"] = str(manager.tls / "ca.pem")
        said = _run(pair, "surfaces.py", scheme, environment=environment)
    results = judge(said, wire)
    return Cell(pair, scheme, results, len(wire.requests))


def cell_key(pair: Pair, scheme: str) -> str:
    """What a cell's result depends on, so that a result can be kept until one of these changes."""
    sources = [ROOT / "src" / "kruise_agents" / name for name in _CLIENT_SOURCES]
    sources += [ROOT / "tests" / name for name in _TEST_SOURCES]
    files = [file for source in sources for file in ([source] if source.is_file() else sorted(source.rglob("*.py")))]
    return digest(str(pair), scheme, *(file.read_bytes() for file in files))


def fails_natively(broken: BrokenPair) -> bool:
    """Whether the pair, unpatched, still fails in the way that the data file says."""
    said = _run(broken.pair, "native_pair.py", environment=_environment(broken.pair))
    return broken.says in said


def judge(said: str, wire: Recorder) -> dict[str, dict[str, str]]:
    """The results that the program printed, together with what was seen at the wire."""
    try:
        answer: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"sync": {"create": f"the program ended early: {said[-1500:]}"}}
    results = {mode: dict(found["results"]) for mode, found in answer.items()}
    for mode, found in answer.items():
        for surface, addresses in found["addresses"].items():
            missing = [address for address in addresses if not _was_sent(address, wire.requests)]
            if missing and results[mode].get(surface) == "ok":
                results[mode][surface] = f"not sent: {', '.join(missing)}"
    outside = wire.outside("/kruise/")
    verdict = "ok" if wire.requests and not outside else f"outside of /kruise/: {', '.join(outside[:5])}"
    for found_in_mode in results.values():
        found_in_mode["wire"] = verdict
    return results


def _was_sent(expected: str, requests: list[RecordedRequest]) -> bool:
    return any(str(request).partition("?")[0] == expected for request in requests)


def _environment(pair: Pair) -> dict[str, str]:
    path = os.pathsep.join(map(str, [*import_path_of(pair), ROOT / "tests"]))
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": path}


def _run(pair: Pair, program: str, *arguments: str, environment: dict[str, str]) -> str:
    command = [str(python_of(pair)), str(PROGRAMS / program), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        return f"no end within {_SECONDS} s: {error.stderr!r}"
    return done.stdout if done.returncode == 0 else re.sub(r"\s+", " ", done.stdout + done.stderr)
