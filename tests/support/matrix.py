"""The cells of the compatibility matrix. A cell is all surfaces of an SDK pair over one scheme, checked at the wire."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .environments import ROOT, digest, release_path, release_python, sdk_environment
from .managers import RunningManager, running_manager
from .recorder import RecordedRequest, Recorder
from .releases import BrokenPair, Pair

PROGRAMS = ROOT / "tests" / "compat" / "programs"
_SECONDS = 240
_CLIENT_SOURCES = ("client", "protocol", "errors.py", "keys.py", "patch_e2b.py", "patch_traffic_token.py")
_TEST_SOURCES = (
    "compat/programs/surfaces.py",
    "compat/programs/on_openkruise.py",
    "support/recorder.py",
    "support/matrix.py",
)
LIKE_OPENKRUISE = "on OpenKruise's"
"""The surface of a cell over http that has the faults on a manager like OpenKruise's."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The results of a pair over a scheme: ``ok`` or an error text for each mode and surface."""

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


@dataclass(frozen=True, slots=True)
class Managers:
    """The managers of a matrix: one for each scheme, and one over http that is like OpenKruise's."""

    https: RunningManager
    http: RunningManager
    like_openkruise: RunningManager


@contextmanager
def serving(folder: Path) -> Iterator[Managers]:
    """Start the managers of the built wheel, which does not change when the sources change."""
    with ExitStack() as stack:

        def start(name: str, *options: str) -> RunningManager:
            (folder / name).mkdir(parents=True)
            return stack.enter_context(
                running_manager(folder / name, *options, pool=2, python=sdk_environment("local"))
            )

        yield Managers(start("https", "--tls"), start("http"), start("like", "--like", "openkruise"))


def run_cell(pair: Pair, scheme: str, managers: Managers) -> Cell:
    """Run the programs with a pair, and check the requests that the programs sent."""
    python, path = release_python(pair), release_path(pair)
    results, requests = run_surfaces(python, scheme, managers.https if scheme == "https" else managers.http, path)
    if scheme == "http":
        found, more = run_surfaces(python, scheme, managers.like_openkruise, path, program="on_openkruise.py")
        requests += more
        for mode, surfaces in found.items():
            wrong = [f"{surface}: {said}" for surface, said in surfaces.items() if said != "ok"]
            results.setdefault(mode, {"create": "ok"})[LIKE_OPENKRUISE] = "; ".join(wrong) or "ok"
    return Cell(pair, scheme, results, requests)


def run_surfaces(
    python: Path,
    scheme: str,
    manager: RunningManager,
    path: Sequence[Path] = (),
    program: str = "surfaces.py",
) -> tuple[dict[str, dict[str, str]], int]:
    """Run the program of all surfaces. Return the program's results and the number of its requests."""
    with Recorder(upstream=manager.port, tls=manager.tls) as wire:
        environment = {**_environment(path), **manager.environment(), "E2B_DOMAIN": wire.domain}
        if manager.tls is not None:
            environment["SSL_CERT_FILE"] = str(manager.tls / "ca.pem")
        said = _run(python, program, scheme, environment=environment)
    return judge(said, wire), len(wire.requests)


def cell_key(pair: Pair, scheme: str) -> str:
    """Return a digest of all that a cell's result depends on. A result is kept until the digest changes."""
    sources = [ROOT / "src" / "kruise_agents" / name for name in _CLIENT_SOURCES]
    sources += [ROOT / "tests" / name for name in _TEST_SOURCES]
    files = [file for source in sources for file in ([source] if source.is_file() else sorted(source.rglob("*.py")))]
    return digest(str(pair), scheme, *(file.read_bytes() for file in files))


def fails_natively(broken: BrokenPair) -> bool:
    """Return True if a pair, unpatched, still fails with the message that the data file has."""
    environment = _environment(release_path(broken.pair))
    return broken.says in _run(release_python(broken.pair), "native_pair.py", environment=environment)


def judge(said: str, wire: Recorder) -> dict[str, dict[str, str]]:
    """Return the results that the program printed, corrected by the requests that were seen at the wire."""
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


def _environment(path: Sequence[Path]) -> dict[str, str]:
    python_path = os.pathsep.join(map(str, [*path, ROOT / "tests"]))
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": python_path}


def _run(python: Path, program: str, *arguments: str, environment: dict[str, str]) -> str:
    command = [str(python), str(PROGRAMS / program), *arguments]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        return f"no end within {_SECONDS} s: {error.stderr!r}"
    return done.stdout if done.returncode == 0 else re.sub(r"\s+", " ", done.stdout + done.stderr)
