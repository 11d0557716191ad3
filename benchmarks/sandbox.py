"""Costs of a sandbox, beside a Jupyter kernel with its own client, `subprocess.run`, nginx and a file server in Go.

`make bench-sandbox` writes docs/benchmarks/sandbox.json, and from these figures sandbox.md, and
docs/explanation/performance.md with its pictures.

All sides of a comparison run in one program and take turns, call by call, so that other work of the machine slows down
all sides alike. A call is also made through the gateway without the SDK, and into the sandbox without the gateway. The
differences show the time that each layer takes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import records, written
from benchmarks.records import Record
from e2b.connection_config import ConnectionConfig
from e2b_code_interpreter import Sandbox
from jupyter_client.manager import KernelManager
from packaging.version import Version

from kruise_agents.manager.api.replies import ENVD_VERSION
from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, descendants, running_manager, wait_for

CALLS = 300
WARM_UP = 20
TRANSFERS = 7
TRANSFER_BYTES = 256 * 1024 * 1024
SMALL = "x" * 1024
ENTRIES = 100
UPLOAD_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 60
IDLE = 10
"""How many sandboxes share pages where the memory of one is measured; fleet.py has a hundred."""
ENVD, INTERPRETER = 49983, 49999

Call = Callable[[], object]


def main() -> int:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        made = records.circumstances("make bench-sandbox", os.getloadavg()[0])
        manager = stack.enter_context(running_manager(folder, "--log-level", "warning"))
        stack.enter_context(patch_e2b(False))
        others = [used_sandbox(manager) for _ in range(IDLE - 1)]
        before = set(descendants(manager.process.pid))
        sandbox = used_sandbox(manager)
        record: Record = {"made": made, "idle": idle(manager, before)}
        for other in others:
            other.kill()
        floors = Floors(manager, sandbox)
        record |= calls(folder, floors)
        record["transfer"] = transfers(folder, floors)
        record["files"] = small_files(folder, floors)
        sandbox.kill()
    records.write("sandbox", record)
    print(written.write()["sandbox.md"])
    return 0


@dataclass
class Floors:
    """The ways into one sandbox: through the gateway, and past the gateway."""

    manager: RunningManager
    sandbox: Sandbox

    def __post_init__(self) -> None:
        self.headers = {"X-Access-Token": self.sandbox._envd_access_token or ""}
        self._gateway = http.client.HTTPConnection("127.0.0.1", self.manager.port)
        self._inner: dict[str, UnixConnection] = {}

    @property
    def sockets(self) -> Path:
        return self.manager.folder_of(self.sandbox.sandbox_id) / "sockets"

    @property
    def program(self) -> int:
        """The pid of the sandbox's program, which serves envd and the code interpreter."""
        return next(pid for pid in descendants(self.manager.process.pid) if comm(pid) == "envd")

    def path(self, port: int, path: str) -> str:
        return f"/kruise/{self.sandbox.sandbox_id}/{port}{path}"

    def through_gateway(self, port: int, path: str, body: bytes | None, content_type: str = "") -> bytes:
        """Send a request on a connection that is kept open, as the SDK's connections are, and return the answer."""
        return exchange(self._gateway, self.path(port, path), body, self._with(content_type))

    def into_sandbox(self, name: str, path: str, body: bytes | None, content_type: str = "") -> bytes:
        """Send a request to the sandbox's Unix socket, on a connection that is kept open, as the gateway does."""
        if name not in self._inner:
            self._inner[name] = UnixConnection(self.sockets / name)
        return exchange(self._inner[name], path, body, self._with(content_type))

    def _with(self, content_type: str) -> dict[str, str]:
        return self.headers | ({"Content-Type": content_type} if content_type else {})


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("sandbox")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def exchange(connection: http.client.HTTPConnection, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {data!r}")
    return data


# What one call costs


def calls(folder: Path, floors: Floors) -> Record:
    with plain_kernel(folder) as kernel:
        code = take_turns(
            {
                "plain `jupyter_client`": lambda: run_in(kernel),
                "into the sandbox": lambda: floors.into_sandbox("code-interpreter", "/execute", ONE_AND_ONE, JSON),
                "through the gateway": lambda: floors.through_gateway(INTERPRETER, "/execute", ONE_AND_ONE, JSON),
                "`run_code`": lambda: floors.sandbox.run_code("1+1"),
            }
        )
    with home_like(floors.sandbox) as home:
        command = take_turns(
            {
                "plain `subprocess.run`": lambda: run_here(home),
                "into the sandbox": lambda: floors.into_sandbox("envd", START, TRUE, CONNECT),
                "through the gateway": lambda: floors.through_gateway(ENVD, START, TRUE, CONNECT),
                "`commands.run`": lambda: floors.sandbox.commands.run("true"),
            }
        )
    return {"run_code": of_calls(code), "commands.run": of_calls(command)}


JSON = "application/json"
CONNECT = "application/connect+json"
START = "/process.Process/Start"
ONE_AND_ONE = json.dumps({"code": "1+1"}).encode()


def enveloped(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return b"\0" + len(data).to_bytes(4, "big") + data


TRUE = enveloped({"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "true"]}, "stdin": False})


def take_turns(sides: Mapping[str, Call], count: int = CALLS, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """Call the sides in turn, and return the milliseconds of each call of each side, without the first calls.

    The order changes from round to round, because what a side does after its answer slows down the next side.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    shuffled = random.Random(0)
    for number in range(warm_up + count):
        for name in shuffled.sample(list(sides), len(sides)):
            took = timed(sides[name]) * 1e3
            if number >= warm_up:
                times[name].append(took)
    return times


@contextlib.contextmanager
def plain_kernel(folder: Path) -> Iterator[Any]:
    """Start a kernel with `jupyter_client`, over the same kind of sockets as a sandbox's kernel."""
    kernels = KernelManager(transport="ipc", connection_file=str(folder / "plain.json"))
    kernels.start_kernel()
    client = kernels.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        yield client
    finally:
        client.stop_channels()
        kernels.shutdown_kernel(now=True)


def run_in(client: Any) -> None:
    """Run a cell as `run_code` does: send it, and read until the kernel has answered and is idle."""
    request = client.execute("1+1")
    while True:
        message = client.get_iopub_msg(timeout=10)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            break
    client.get_shell_msg(timeout=10)


@contextlib.contextmanager
def home_like(sandbox: Sandbox) -> Iterator[Path]:
    """Make a home folder with the files of the sandbox that a login shell reads."""
    with tempfile.TemporaryDirectory() as name:
        for file in (".profile", ".bashrc"):
            if sandbox.files.exists(file):
                Path(name, file).write_text(sandbox.files.read(file))
        yield Path(name)


def run_here(home: Path) -> None:
    environment = {
        "HOME": str(home),
        "USER": "user",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    subprocess.run(["/bin/bash", "-l", "-c", "true"], env=environment, capture_output=True, check=True)


def of_calls(sides: dict[str, list[float]]) -> Record:
    """Return the figures of each side, with each layer's share of the whole, and the last side divided by the first."""
    figures: list[Record] = []
    plain, *_, whole = medians = [statistics.median(times) for times in sides.values()]
    for number, (name, times) in enumerate(sides.items()):
        hundredths = statistics.quantiles(times, n=100)
        below = medians[number - 1] if number > 1 else 0.0
        figures.append(
            {
                "name": name,
                "p10": hundredths[9],
                "median": medians[number],
                "p90": hundredths[89],
                "p99": hundredths[98],
                "share": (medians[number] - below) / whole if number else None,
            }
        )
    return {"calls": CALLS, "sides": figures, "ratio": whole / plain}


# What files cost, beside a file server in Go

MULTIPART = "multipart/form-data; boundary=b0b0"
SMALL_FORM = (
    '--b0b0\r\nContent-Disposition: form-data; name="file"; filename="small"\r\n\r\n' + SMALL + "\r\n--b0b0--\r\n"
).encode()
LIST = json.dumps({"path": "many", "depth": 1}).encode()


def small_files(folder: Path, floors: Floors) -> Record | None:
    """Measure the SDK's calls on files against a sandbox, the Go server and two bare programs."""
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None or shutil.which("nginx") is None:
        return None
    source = folder / "upload.bin"
    source.write_bytes(os.urandom(2**20) * (UPLOAD_BYTES >> 20))
    for number in range(ENTRIES):
        floors.sandbox.files.write(f"many/{number}", SMALL)
    entries = floors.into_sandbox("envd", "/filesystem.Filesystem/ListDir", LIST, JSON)
    with (
        go_server(go, folder) as plain,
        nginx(folder, behind=plain) as proxy,
        bare_servers(folder, entries) as bare,
    ):
        others = {"go": sdk_of(plain, floors), "nginx": sdk_of(f"{proxy}/behind", floors)}
        for number in range(ENTRIES):
            others["go"].files.write(f"many/{number}", SMALL)
        sandboxes = {**others, "bare": sdk_of(bare, floors), "sdk": floors.sandbox}
        for sandbox in sandboxes.values():
            sandbox.files.write("small", SMALL)
        # Each side writes a file of its own, because a write waits until the disk has the one before to the same file.
        cases: dict[str, tuple[Callable[[Sandbox], object], dict[str, Call]]] = {
            "`files.write` of 1 KB": (
                lambda sandbox: sandbox.files.write("nginx" if sandbox is others["nginx"] else "small", SMALL),
                without_sdk(floors, "/files?path={side}", SMALL_FORM, MULTIPART),
            ),
            "`files.read` of 1 KB": (
                lambda sandbox: sandbox.files.read("small"),
                without_sdk(floors, "/files?path=small", None, ""),
            ),
            f"`files.list` of {ENTRIES} entries": (
                lambda sandbox: sandbox.files.list("many"),
                without_sdk(floors, "/filesystem.Filesystem/ListDir", LIST, JSON),
            ),
        }
        rows = [
            file_row(what, take_turns({name: partial(call, sandbox) for name, sandbox in sandboxes.items()} | more))
            for what, (call, more) in cases.items()
        ]
        uploads = {name: partial(sdk_up, sandbox, source) for name, sandbox in sandboxes.items()}
        rows.append(file_row(f"upload of {UPLOAD_BYTES >> 20} MB", take_turns(uploads, TRANSFERS, 1)))
    return {"calls": CALLS, "uploads": TRANSFERS, "rows": rows}


def without_sdk(floors: Floors, path: str, body: bytes | None, content_type: str) -> dict[str, Call]:
    return {
        "into": lambda: floors.into_sandbox("envd", path.format(side="into"), body, content_type),
        "through": lambda: floors.through_gateway(ENVD, path.format(side="through"), body, content_type),
    }


def file_row(what: str, times: dict[str, list[float]]) -> Record:
    """Return the medians of the sides, and how many times as long as each Go server the SDK with a sandbox takes.

    ``floor`` is the same for the two bare programs and the Go server.
    """
    medians = {name: statistics.median(of_side) for name, of_side in times.items()}
    ratios = {f"of_{name}": medians["sdk"] / medians[name] for name in ("go", "nginx")}
    ratios["floor"] = medians["bare"] / medians["go"]
    return {"what": what, **medians, **ratios}


def sdk_of(url: str, floors: Floors) -> Sandbox:
    """Return the SDK's object for a sandbox whose envd is at ``url``."""
    config = ConnectionConfig(api_key=floors.manager.api_key, domain=floors.manager.domain, sandbox_url=url)
    return Sandbox(
        sandbox_id="plain",
        sandbox_domain=None,
        envd_version=Version(ENVD_VERSION),
        envd_access_token="none",
        connection_config=config,
    )


@contextlib.contextmanager
def go_server(go: str, folder: Path) -> Iterator[str]:
    """Build and start benchmarks/file_server.go."""
    home, program = folder / "go", folder / "file_server"
    home.mkdir()
    command = [go, "build", "-o", str(program), str(Path(__file__).with_name("file_server.go"))]
    subprocess.run(command, env={**os.environ, "GOTOOLCHAIN": "local", "GO111MODULE": "off"}, check=True)
    with subprocess.Popen([program, home], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@contextlib.contextmanager
def bare_servers(folder: Path, entries: bytes) -> Iterator[str]:
    """Start two programs of benchmarks/bare_server.py, one in front of the other. A list is answered by ``entries``."""
    program, inner, prepared = str(Path(__file__).with_name("bare_server.py")), folder / "bare", folder / "entries"
    prepared.write_bytes(entries)
    with contextlib.ExitStack() as stack:
        for arguments in (["answer", inner, prepared], ["forward", inner]):
            command = [sys.executable, program, *map(str, arguments)]
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            said = process.stdout.readline()
        yield f"http://127.0.0.1:{int(said)}"


# What a large file costs


def transfers(folder: Path, floors: Floors) -> Record | None:
    if shutil.which("nginx") is None or shutil.which("curl") is None:
        return None
    source = folder / "source.bin"
    with source.open("wb") as file:
        for _ in range(TRANSFER_BYTES // 2**20):
            file.write(os.urandom(2**20))
    peaks = Peaks({"manager": floors.manager.process.pid, "envd": floors.program})
    base = f"http://127.0.0.1:{floors.manager.port}{floors.path(ENVD, '/files?path=large.bin')}"
    token = ["-H", f"X-Access-Token: {floors.headers['X-Access-Token']}"]
    binary = ["-H", "Content-Type: application/octet-stream"]
    with nginx(folder) as plain:
        sides = {
            "up": {
                "nginx": lambda: curl("-T", str(source), f"{plain}/large.bin"),
                "sandbox": lambda: curl("-X", "POST", *token, *binary, "-T", str(source), base),
                "sandbox, by the SDK": lambda: sdk_up(floors.sandbox, source),
            },
            "down": {
                "nginx": lambda: curl(f"{plain}/large.bin"),
                "sandbox": lambda: curl(*token, base),
                "sandbox, by the SDK": lambda: sdk_down(floors.sandbox),
            },
        }
        rates = {way: {name: rate(call) for name, call in ways.items()} for way, ways in interleaved(sides).items()}
    return {
        "megabytes": TRANSFER_BYTES >> 20,
        "times": TRANSFERS,
        "sides": [{"name": name, "up": rates["up"][name], "down": rates["down"][name]} for name in sides["up"]],
        "ratio": {way: rates[way]["sandbox"] / rates[way]["nginx"] for way in ("up", "down")},
        "memory": peaks.grown(),
    }


def interleaved(sides: Mapping[str, Mapping[str, Call]]) -> dict[str, dict[str, list[float]]]:
    times: dict[str, dict[str, list[float]]] = {way: {name: [] for name in ways} for way, ways in sides.items()}
    for _ in range(TRANSFERS):
        for way, ways in sides.items():
            for name, call in ways.items():
                times[way][name].append(timed(call))
    return times


def rate(times: list[float]) -> float:
    return TRANSFER_BYTES / 1e6 / statistics.median(times)


def curl(*arguments: str) -> None:
    subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", *arguments], check=True)


def sdk_up(sandbox: Sandbox, source: Path) -> None:
    with source.open("rb") as file:
        sandbox.files.write("large.bin", file)


def sdk_down(sandbox: Sandbox) -> None:
    size = sum(len(piece) for piece in sandbox.files.read("large.bin", format="stream"))
    if size != TRANSFER_BYTES:
        raise RuntimeError(f"{size} bytes came")


_PROXY = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; proxy_buffering off;'


@contextlib.contextmanager
def nginx(folder: Path, behind: str | None = None) -> Iterator[str]:
    """Start nginx, which serves and takes files of a folder, with the usual settings.

    Args:
        behind: the address of a server that nginx passes requests below ``/behind/`` to.
    """
    root = folder / ("proxy" if behind else "nginx")
    passed = f"location /behind/ {{ proxy_pass http://other/; {_PROXY} }}" if behind else ""
    other = f"upstream other {{ server {behind.removeprefix('http://')}; keepalive 8; }}" if behind else ""
    for name in ("www", "temp"):
        (root / name).mkdir(parents=True)
        (root / name).chmod(0o777)
    folder.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = " ".join(
        f"{kind}_temp_path {root}/temp/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (root / "nginx.conf").write_text(
        f"pid {root}/pid; error_log {root}/error.log; worker_processes 2; events {{}}\n"
        f"http {{ access_log off; sendfile on; client_max_body_size 0; {temporary} {other}\n"
        f"server {{ listen 127.0.0.1:{port}; {passed} location / {{ root {root}/www; dav_methods PUT DELETE; }} }} }}\n"
    )
    command = ["nginx", "-c", str(root / "nginx.conf"), "-e", str(root / "error.log"), "-g", "daemon off;"]
    with subprocess.Popen(command) as process:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 10, "nginx listening")
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


class Peaks:
    """The memory of processes at the start of a measurement, and the highest since."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        for pid in processes.values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._before = {name: status(pid, "VmRSS") for name, pid in processes.items()}

    def grown(self) -> dict[str, list[float]]:
        return {name: [self._before[name], status(pid, "VmHWM")] for name, pid in self._processes.items()}


# What doing nothing costs


def used_sandbox(manager: RunningManager) -> Sandbox:
    sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key, timeout=3600)
    sandbox.run_code("1+1")
    return sandbox


def idle(manager: RunningManager, others: set[int]) -> Record:
    """Return the memory and the processor time of the last of some sandboxes, each of which has run one cell.

    Args:
        others: the manager's processes that do not belong to this sandbox.
    """
    processes = [pid for pid in descendants(manager.process.pid) if pid not in others]
    shared_by_all = [manager.process.pid, *(pid for pid in others if comm(pid) == "zygote")]
    before = {pid: processor_seconds(pid) for pid in [*processes, *shared_by_all]}
    time.sleep(IDLE_SECONDS)
    figures = {
        pid: {
            "pss": proportional(pid),
            "private": private_memory(pid),
            "cpu_ms": (processor_seconds(pid) - since) * 1e3,
        }
        for pid, since in before.items()
    }
    return {
        "sandboxes": IDLE,
        "seconds": IDLE_SECONDS,
        "processes": [{"name": role(pid), **figures[pid]} for pid in processes],
        "sandbox": {name: sum(figures[pid][name] for pid in processes) for name in ("pss", "private", "cpu_ms")},
        "manager": figures[shared_by_all[0]],
        "zygotes": [figures[pid] for pid in shared_by_all[1:]],
    }


def role(pid: int) -> str:
    name = comm(pid)
    if name == "envd":
        return "envd and code interpreter"
    return "kernel" if name.startswith("python") else name


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def proportional(pid: int) -> float:
    return rollup(pid, "Pss")


def private_memory(pid: int) -> float:
    return rollup(pid, "Private_Clean") + rollup(pid, "Private_Dirty")


def rollup(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def status(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def processor_seconds(pid: int) -> float:
    # Nanoseconds; the ticks of /proc/<pid>/stat are too coarse for a process that sleeps.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def timed(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
