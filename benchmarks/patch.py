"""What the patch costs and gains, measured side by side in one run. `make bench-patch` writes docs/benchmarks/patch.md.

Everything runs in a network namespace with a DNS server and two managers, one with TLS on port 443 (native protocol
and private protocol over https) and one without on port 80 (private protocol over http). Client programs, one
for each way, are told in turn what to do next, so that whatever the machine does besides hits all of them alike.
Where the time of many commands goes is read from the CPU time of the client, the manager and its sandboxes.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "integration")]

NATIVE, OVER_HTTPS, OVER_HTTP, KEPT = WAYS = (
    "native https",
    "private https",
    "private http",
    "private https, 300 kept",
)
REMEDY = {"E2B_MAX_CONNECTIONS": "300", "E2B_MAX_KEEPALIVE_CONNECTIONS": "300"}
ROUNDS = 12
REQUESTS = 40
SANDBOXES = 10
COMMANDS = 300
STORMS = 5
PARTS = ("client", "manager", "sandboxes")
KEY = "e2b_0123456789abcdef0123456789abcdef01234567"


def main() -> int:
    if sys.argv[1:2] == ["inside"]:
        return inside(Path(sys.argv[2]))
    if sys.argv[1:2] == ["client"]:
        return client(sys.argv[2])
    from support.namespaces import in_network_namespace

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "inside", folder]
        return subprocess.run(in_network_namespace(command, Path(folder)), check=False).returncode


def inside(folder: Path) -> int:
    """The part that runs in the namespace: servers, clients, figures."""
    import trustme
    from stage import serving_names

    authority = trustme.CA()
    certificate = authority.issue_cert("your.domain", "*.your.domain")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    tls = ["--cert", str(folder / "server.pem"), "--key", str(folder / "server.key")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving_names(("your.domain", "*.your.domain")))
        managers = {}
        for port, options in ((443, tls), (80, [])):
            state = folder / f"state-{port}"
            managers[port] = stack.enter_context(manager("--port", str(port), "--state-dir", str(state), *options))
        clients = {way: stack.enter_context(client_program(way, folder)) for way in WAYS}
        figures = measure(clients, {way: managers[443 if "https" in way else 80] for way in WAYS})
    report(figures)
    return 0


@contextlib.contextmanager
def manager(*options: str) -> Iterator[int]:
    command = [sys.executable, "-m", "kruise_agents", "serve", *options]
    environment = {"PATH": os.environ["PATH"], "HOME": "/", "KRUISE_AGENTS_API_KEY": KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if not any("Ctrl-C" in line for line in process.stdout):
            raise SystemExit("the manager ended")
        yield process.pid
        process.terminate()


class Client:
    """A client program and the line by which it is told what to do."""

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
    command = [sys.executable, __file__, "client", way]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()


def cpu_seconds(manager: int) -> dict[str, float]:
    """What a manager and its sandboxes have used since they began, ended commands included."""
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
    """Let a client run its commands: seconds in all, and seconds of CPU for each part."""
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
    from importlib.metadata import version

    requests, storm, addresses, patch = (figures[name] for name in ("requests", "elapsed", "addresses", "patch"))
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), "unknown")
    over_https, over_http = (requests[way] / requests[NATIVE] for way in (OVER_HTTPS, OVER_HTTP))
    lines = [
        "# What the patch costs and gains",
        "",
        f"`make bench-patch`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({processor}), Python "
        f"{sys.version.split()[0]}, e2b {version('e2b')}. All figures are of one run, the ways taking turns.",
        "",
        "| what | figure | target |",
        "|---|---|---|",
        f"| `patch_e2b()` after the SDK is imported | {patch['milliseconds']:.2f} ms | below 5 ms |",
        f"| `import kruise_agents.patch_e2b` before it | {patch['import milliseconds']:.2f} ms | |",
        f"| modules that it imports beyond our own and the SDK's | {', '.join(patch['modules']) or 'none'} | |",
        "",
        "| | " + " | ".join(WAYS) + " |",
        "|---" * (len(WAYS) + 1) + "|",
        row("building a configuration and a sandbox URL, µs", addresses, "{:.1f}"),
        row(f"`files.exists`, median of {ROUNDS * REQUESTS}, ms", {k: v * 1e3 for k, v in requests.items()}, "{:.2f}"),
        row(f"{COMMANDS} commands at once over {SANDBOXES} sandboxes, median of {STORMS}, s", storm, "{:.2f}"),
        *(row(f"– CPU of the {part} for them, s", figures[part], "{:.2f}") for part in PARTS),
        "",
        f"A request over private https takes {over_https:.3f} times as long as over native https (target: within 2 %), "
        f"and over private http {over_http:.3f} times.",
        f"{COMMANDS} commands at once take {storm[OVER_HTTP] / storm[NATIVE]:.2f} times as long over private http as "
        f"over native https (target: a third). Over private https they take {storm[OVER_HTTPS] / storm[NATIVE]:.2f} "
        f"times as long, and {storm[KEPT] / storm[NATIVE]:.2f} times with "
        f"{' '.join(f'`{name}={value}`' for name, value in REMEDY.items())}.",
        "",
        "## Where the time of many commands goes",
        "",
        *where_the_time_goes(figures),
        "",
    ]
    target = ROOT / "docs" / "benchmarks" / "patch.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(lines))
    print("\n".join(lines))


def where_the_time_goes(figures: dict[str, Any]) -> list[str]:
    native, private = (sum(figures[part][way] for part in PARTS) for way in (NATIVE, OVER_HTTP))
    alone = figures["sandboxes"][OVER_HTTP]
    paragraphs = f"""
        {COMMANDS} commands take {native:.2f} s of processor time over native https and {private:.2f} s over private
        http. The sandboxes spend {alone:.2f} s of it, because envd starts a login shell for each command. If client
        and manager took no time at all, this machine would be {native / alone:.1f} times as fast as over native https.
        No protocol can gain more here.

        The SDK's pool keeps 20 idle connections to an address. In the native protocol each sandbox is an address. In
        the private protocol all sandboxes share one address and its 20 connections, so a second burst of commands
        opens most of its connections again, with a handshake each. The last column keeps 300 connections. From e2b
        2.56.0 on the pool also opens 200 connections to an address at most, so the last hundred commands wait.
        [The patch](../reference/patch.md#connections-and-proxies) has both settings. Each command holds a connection
        in either protocol, because the manager speaks HTTP/1.1.

        The benchmark does not measure distance. On the loopback a handshake takes no round trip, and a name takes no
        lookup.
    """
    return textwrap.dedent(paragraphs).strip().splitlines()


def row(name: str, values: dict[str, float], form: str) -> str:
    return f"| {name} | " + " | ".join(form.format(values[way]) for way in WAYS) + " |"


def client(way: str) -> int:
    """A program of a user, patched or not; obeys the lines on its standard input."""
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
