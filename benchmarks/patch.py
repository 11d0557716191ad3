"""Costs and gains of the patch, measured side by side in one run.

`make bench-patch` writes docs/benchmarks/patch.json, and from these figures patch.md, and
docs/explanation/performance.md with its pictures.

Everything runs in a network namespace with a DNS server and two managers, one with TLS on port 443 (native protocol
and private protocol over https) and one without on port 80 (private protocol over http). Client programs, one
for each way, take turns, so that other work of the machine slows down all ways alike. The time of many commands is
split up by the CPU time of the client, the manager and its sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.pages import KEPT, NATIVE, OVER_HTTP, OVER_HTTPS, PARTS, WAYS

REMEDY = {"E2B_MAX_CONNECTIONS": "300", "E2B_MAX_KEEPALIVE_CONNECTIONS": "300"}
ROUNDS = 12
REQUESTS = 40
SANDBOXES = 10
COMMANDS = 300
STORMS = 5
KEY = "e2b_0123456789abcdef0123456789abcdef01234567"


def main() -> int:
    if sys.argv[1:2] == ["inside"]:
        return inside(Path(sys.argv[2]))
    if sys.argv[1:2] == ["client"]:
        return client(sys.argv[2])
    from support.namespaces import in_network_namespace

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.patch", "inside", folder]
        return subprocess.run(in_network_namespace(command, Path(folder)), check=False).returncode


def inside(folder: Path) -> int:
    """Run the servers and clients inside the namespace, and write the figures."""
    from stage import make_certificate, serving, serving_names

    names = ("your.domain", "*.your.domain")
    tls = make_certificate(folder, *names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving_names(names))
        managers = {}
        for port, more in ((443, tls), (80, [])):
            options = ["--port", str(port), "--state-dir", str(folder / f"state-{port}"), *more]
            managers[port] = stack.enter_context(serving(options, folder))
        clients = {way: stack.enter_context(client_program(way, folder)) for way in WAYS}
        figures = measure(clients, {way: managers[443 if "https" in way else 80] for way in WAYS})
    report(figures)
    return 0


class Client:
    """A client program, and the pipes for orders and answers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def client_program(way: str, folder: Path) -> Iterator[Client]:
    environment = os.environ | {"E2B_DOMAIN": "your.domain", "E2B_API_KEY": KEY}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the cost of compiling our modules is paid once
    environment |= REMEDY if way == KEPT else {}
    if "https" in way:
        environment["SSL_CERT_FILE"] = str(folder / "ca.pem")
    command = [sys.executable, "-m", "benchmarks.patch", "client", way]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()


def cpu_seconds(manager: int) -> dict[str, float]:
    """Return the CPU time of a manager and of its sandboxes since their start, including ended commands."""
    tick = os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            children.setdefault(int(fields[1]), []).append(pid)
            own, reaped = (sum(map(int, fields[at : at + 2])) / tick for at in (11, 13))
            used[pid] = own if pid == manager else own + reaped
    below = list(children.get(manager, []))
    for pid in below:
        below += children.get(pid, [])
    return {"manager": used[manager], "sandboxes": sum(used.get(pid, 0.0) for pid in below)}


def storm(client: Client, manager: int) -> dict[str, float]:
    """Have a client run its commands. Return the elapsed seconds, and the seconds of CPU time of each part."""
    before = cpu_seconds(manager)
    elapsed, of_client = client.ask("storm")
    after = cpu_seconds(manager)
    return {"elapsed": elapsed, "client": of_client, **{part: after[part] - before[part] for part in after}}


def measure(clients: dict[str, Client], managers: dict[str, int]) -> dict[str, Any]:
    figures: dict[str, Any] = {"patch": clients[OVER_HTTP].ask("patch")}
    figures["addresses"] = {way: clients[way].ask("addresses") for way in WAYS}
    for one in clients.values():
        one.ask("create 1")
        one.ask("requests")  # connections are opened, code is warm
    rounds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            rounds[way] += clients[way].ask("requests")
    figures["requests"] = {way: statistics.median(times) for way, times in rounds.items()}
    for way in WAYS:
        clients[way].ask(f"create {SANDBOXES - 1}")
    storms: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(STORMS):
        for way in WAYS:
            storms[way].append(storm(clients[way], managers[way]))
    for part in ("elapsed", *PARTS):
        figures[part] = {way: statistics.median(one[part] for one in storms[way]) for way in WAYS}
    for one in clients.values():
        one.ask("kill")
    return figures


def report(figures: dict[str, Any]) -> None:
    from benchmarks import written

    requests, storm, of_patch = (figures[name] for name in ("requests", "elapsed", "patch"))
    record = {
        "made": records.circumstances("make bench-patch", os.getloadavg()[0]),
        "patch": {
            "milliseconds": of_patch["milliseconds"],
            "import_milliseconds": of_patch["import milliseconds"],
            "modules": of_patch["modules"],
        },
        "requests": ROUNDS * REQUESTS,
        "commands": COMMANDS,
        "sandboxes": SANDBOXES,
        "storms": STORMS,
        "remedy": REMEDY,
        "addresses_us": figures["addresses"],
        "request_ms": {way: seconds * 1e3 for way, seconds in requests.items()},
        "storm_s": {part: figures[part] for part in ("elapsed", *PARTS)},
        "ratio": {
            "request": {way: requests[way] / requests[NATIVE] for way in (OVER_HTTPS, OVER_HTTP)},
            "storm": {way: storm[way] / storm[NATIVE] for way in (OVER_HTTP, OVER_HTTPS, KEPT)},
        },
    }
    records.write("patch", record)
    print(written.write()["patch.md"])


def client(way: str) -> int:
    """Run as a user's program, patched or not, and carry out the orders on the standard input."""
    import e2b_code_interpreter  # noqa: F401 - imported before the patch, whose own cost is measured
    from e2b import AsyncSandbox, ConnectionConfig, Sandbox

    before = set(sys.modules)
    imports = took = 0.0
    if way != NATIVE:
        started = time.perf_counter()
        from kruise_agents.patch_e2b import patch_e2b

        imports = time.perf_counter() - started
        took = timed(lambda: patch_e2b("https" in way))
    ours = ("kruise_agents", "e2b")
    modules = sorted({name.split(".")[0] for name in set(sys.modules) - before} - set(ours))
    sandboxes: list[Any] = []

    def do(what: str, *arguments: str) -> Any:
        if what == "patch":
            return {"milliseconds": took * 1e3, "import milliseconds": imports * 1e3, "modules": modules}
        if what == "addresses":
            return addresses()
        if what == "create":
            sandboxes.extend(Sandbox.create() for _ in range(int(arguments[0])))
        elif what == "requests":
            return [timed(lambda: sandboxes[0].files.exists("/nothing")) for _ in range(REQUESTS)]
        elif what == "storm":
            return asyncio_storm(AsyncSandbox, [one.sandbox_id for one in sandboxes])
        elif what == "kill":
            for one in sandboxes:
                one.kill()
        return None

    def addresses() -> float:
        times = []
        for _ in range(2000):
            times.append(timed(lambda: ConnectionConfig().get_sandbox_url("i0123", "your.domain")))
        return statistics.median(times) * 1e6

    for line in sys.stdin:
        print(json.dumps(do(*line.split())), flush=True)
    os._exit(0)


def asyncio_storm(sandbox_class: Any, ids: list[str]) -> tuple[float, float]:
    import asyncio

    async def storm() -> tuple[float, float]:
        sandboxes = [await sandbox_class.connect(sandbox_id) for sandbox_id in ids]
        started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(sandboxes[i % len(sandboxes)].commands.run("true") for i in range(COMMANDS)))
        return time.perf_counter() - started, time.process_time() - used

    return asyncio.run(storm())


def timed(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
