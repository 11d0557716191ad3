"""Run in a network namespace: puts an internet of a few addresses beside it, and a sandbox that tries to reach them.

``internet.py CARRIER FOLDER``; writes what it found as JSON. The internet is a namespace of its own with a web server.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, descendants, running_manager, wait_for

PUBLIC, OTHER, PRIVATE, HOST = "198.51.100.1", "198.51.100.2", "10.1.2.3", "203.0.113.2"
_SERVER = """
import socket, threading
for line in iter(input, "serve"):
    pass
def serve():
    s = socket.create_server(("0.0.0.0", 80))
    while True:
        c, _ = s.accept()
        c.recv(65536)
        c.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nanswer of " + c.getsockname()[0].encode())
        c.close()
threading.Thread(target=serve, daemon=True).start()
print("serves", flush=True)
input()
"""


def main(carrier: str, folder: Path) -> None:
    internet = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert internet.stdin is not None
    assert internet.stdout is not None
    try:
        wait_for(lambda: Path(f"/proc/{internet.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink())
        _connect(internet.pid)
        internet.stdin.write("serve\n")
        internet.stdin.flush()
        assert internet.stdout.readline() == "serves\n"
        _local_servers()
        prelude = (
            "import kruise_agents.manager.runtime.egress as egress\n"
            f"egress._CARRIERS = {{{carrier!r}: egress._CARRIERS[{carrier!r}]}}\n"
        )
        with patch_e2b(False):
            with running_manager(folder, prelude=prelude) as manager:
                found = _find_out(manager)
            with running_manager(folder, prelude=prelude) as manager:
                print(json.dumps(found | {"taken over": _find_out_again(manager, str(found["left"]))}))
    finally:
        internet.kill()
        internet.wait()


def _connect(pid: int) -> None:
    inside = ["nsenter", "--net", "--target", str(pid)]
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "out", "type", "veth", "peer", "name", "home", "netns", str(pid)],
        ["ip", "address", "add", f"{HOST}/24", "dev", "out"],
        ["ip", "link", "set", "out", "up"],
        ["ip", "route", "add", "default", "via", "203.0.113.1"],
        [*inside, "ip", "link", "set", "lo", "up"],
        [*inside, "ip", "address", "add", "203.0.113.1/24", "dev", "home"],
        [*inside, "ip", "link", "set", "home", "up"],
        *([*inside, "ip", "address", "add", f"{one}/32", "dev", "lo"] for one in (PUBLIC, OTHER, PRIVATE)),
    ):
        subprocess.run(command, check=True)


def _local_servers() -> None:
    """What the manager's machine serves: names on port 53 of its loopback, and something else on every address."""
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    other = socket.create_server(("0.0.0.0", 8080))

    def answer_names() -> None:
        while True:
            question, sender = names.recvfrom(512)
            end = question.index(b"\0", 12) + 5
            is_address = question[end - 4 : end - 2] == b"\0\1"
            head = question[:2] + b"\x81\x80\0\1\0" + (b"\1" if is_address else b"\0") + bytes(4)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(PUBLIC)
            names.sendto(head + question[12:end] + (record if is_address else b""), sender)

    def answer_others() -> None:
        while True:
            connection, _ = other.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe machine's own")
            connection.close()

    for work in (answer_names, answer_others):
        threading.Thread(target=work, daemon=True).start()


def _find_out(manager: RunningManager) -> dict[str, object]:
    found: dict[str, object] = {}
    options = {"template": "base", "domain": manager.domain, "api_key": manager.api_key}

    def tries(name: str, change: Callable[[Sandbox], object] | None = None, **more: object) -> None:
        with Sandbox.create(**options, **more) as sandbox:  # type: ignore[arg-type]  # the call's options, passed on
            if change is not None:
                change(sandbox)
            found[name] = {
                place: _fetch(sandbox, f"http://{address}/")
                for place, address in (("public", PUBLIC), ("other", OTHER), ("private", PRIVATE))
            }
            found[name]["name"] = _fetch(sandbox, "http://some.example/")  # type: ignore[index]  # a dict, put there above

    def put(**rules: object) -> Callable[[Sandbox], None]:
        def change(sandbox: Sandbox) -> None:
            with manager.api() as client:
                answer = client.put(f"/sandboxes/{sandbox.sandbox_id}/network", json=rules)
                assert answer.status_code == 204, answer.text

        return change

    tries("default")
    tries("no internet", allow_internet_access=False)
    tries("one denied", network={"deny_out": [f"{OTHER}/32"]})
    tries("one allowed", network={"deny_out": ["0.0.0.0/0"], "allow_out": [PUBLIC]})
    tries("private allowed", network={"allow_out": [PRIVATE]})
    tries("closed later", put(allow_internet_access=False))
    tries("opened later", put(), allow_internet_access=False)
    sandbox = Sandbox.create(**options)  # type: ignore[arg-type]  # the call's options, passed on
    for place in ("10.0.2.2", "10.0.2.3", HOST, "127.0.0.1", "10.0.2.15", "10.0.2.100"):
        found[f"machine by {place}"] = [
            _fetch(sandbox, f"http://{place}:8080/"),
            _fetch(sandbox, f"http://{place}:{manager.port}/"),
        ]
    found["routes"] = sandbox.commands.run(
        "PATH=$PATH:/usr/sbin:/sbin; (ip route del 10.0.0.0/8 || ip link set tap0 down) 2>&1; true", user="root"
    ).stdout
    with manager.api() as client:
        found["health"] = client.get("/health", headers={"Accept": "application/json"}).json()["internet"]
    put(denyOut=[f"{OTHER}/32"])(sandbox)
    found["left"] = sandbox.sandbox_id
    carriers = _carriers(manager)
    found["carriers"] = len(carriers)
    manager.process.kill()
    manager.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in carriers), what="the end of the carriers")
    return found


def _find_out_again(manager: RunningManager, sandbox_id: str) -> dict[str, str]:
    """What a sandbox reaches when the next manager has taken it over."""
    sandbox = Sandbox.connect(sandbox_id, domain=manager.domain, api_key=manager.api_key)
    return {"public": _fetch(sandbox, f"http://{PUBLIC}/"), "other": _fetch(sandbox, f"http://{OTHER}/")}


def _carriers(manager: RunningManager) -> list[int]:
    names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in descendants(manager.process.pid)}
    return [pid for pid, name in names.items() if name.startswith(("slirp4netns", "pasta", "passt"))]


def _fetch(sandbox: Sandbox, url: str) -> str:
    return sandbox.commands.run(f"curl -sS --max-time 4 {url} 2>&1; true").stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
