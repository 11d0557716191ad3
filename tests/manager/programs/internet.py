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
from typing import Any

import httpx
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import RunningManager, descendants, running_manager, wait_for

PUBLIC, OTHER, PRIVATE, HOST = "198.51.100.1", "198.51.100.2", "10.1.2.3", "203.0.113.2"
NAMES = {
    "some.example": [PUBLIC],
    "other.example": [OTHER],
    "moves.example": [PUBLIC],
    "private.example": [PRIVATE, HOST, "127.0.0.1", "10.0.2.2", "0.0.0.0"],
}
"""The addresses that the name server answers with. A test program may change them."""
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


_WAITS = """
code_interpreter = false
pool = 1
start = "curl -sS --max-time 4 http://198.51.100.1/ > /home/user/before 2>&1; true"
[ready]
command = "test -s /home/user/before"
"""


def main(carrier: str, folder: Path) -> None:
    templates = folder / "templates"
    templates.mkdir()
    (templates / "waits.toml").write_text(_WAITS)
    (templates / "closed.toml").write_text(f"internet = false{_WAITS}")
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
            "import kruise_agents.manager.runtime.network.egress as egress\n"
            "import kruise_agents.manager.runtime.network.host_names as host_names\n"
            "host_names.SECONDS, host_names.KEPT_SECONDS = 0.2, 1.0\n"
            f"egress._CARRIERS = {{{carrier!r}: egress._CARRIERS[{carrier!r}]}}\n"
        )
        with patch_e2b(False):
            with running_manager(folder, "--templates", str(templates), prelude=prelude) as manager:
                found = _find_out(manager)
            with running_manager(folder, "--templates", str(templates), prelude=prelude) as manager:
                again = {
                    "taken over": _find_out_again(manager, str(found["left"])),
                    "taken over, with a name": _find_out_again(manager, str(found["left with a name"])),
                    "taken over, of a closed template": _find_out_again(manager, str(found["left closed"])),
                }
                print(json.dumps(found | again))
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
    """Serve DNS names on port 53 of the manager's loopback, and other content on port 8080 of every address."""
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    other = socket.create_server(("0.0.0.0", 8080))

    def answer_names() -> None:
        while True:
            question, sender = names.recvfrom(512)
            end = question.index(b"\0", 12) + 5
            is_address = question[end - 4 : end - 2] == b"\0\1"
            labels, place = [], 12
            while question[place]:
                labels.append(question[place + 1 : place + 1 + question[place]].decode())
                place += 1 + question[place]
            found = NAMES.get(".".join(labels).lower(), []) if is_address else []
            head = question[:2] + b"\x81\x80\0\1\0" + bytes([len(found)]) + bytes(4)
            records = [b"\xc0\x0c\0\1\0\1\0\0\0\x01\0\4" + socket.inet_aton(address) for address in found]
            names.sendto(head + question[12:end] + b"".join(records), sender)

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

    def look(name: str, sandbox: Sandbox) -> None:
        found[name] = {
            place: _fetch(sandbox, f"http://{address}/")
            for place, address in (("public", PUBLIC), ("other", OTHER), ("private", PRIVATE))
        }
        found[name]["name"] = _fetch(sandbox, "http://some.example/")  # type: ignore[index]  # a dict

    def tries(name: str, change: Callable[[Sandbox], object] | None = None, **more: object) -> None:
        with Sandbox.create(**(options | more)) as sandbox:
            if change is not None:
                change(sandbox)
            look(name, sandbox)

    def claims(name: str, template: str, **more: object) -> None:
        """Do the same with a sandbox from the pool, and note what the sandbox reached while it was in the pool."""
        wait_for(lambda: _waiting(manager, template) == 1, 60, f"a warm sandbox of {template}")
        before = _warm_claims(manager, template)
        with Sandbox.create(**(options | {"template": template} | more)) as sandbox:
            assert _warm_claims(manager, template) == before + 1
            look(name, sandbox)
            found[name]["before"] = sandbox.files.read("before")  # type: ignore[index]  # a dict

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
    claims("warm", "waits")
    claims("warm, no internet", "waits", allow_internet_access=False)
    claims("warm, one allowed", "waits", network={"deny_out": ["0.0.0.0/0"], "allow_out": [PUBLIC]})
    claims("closed template", "closed")
    claims("closed template, opened by the call", "closed", allow_internet_access=True)
    claims("closed template, one allowed", "closed", network={"allow_out": [PUBLIC]})
    tries("closed template, cleared later", put(allow_internet_access=True), template="closed")
    with Sandbox.create(**(options | {"template": "closed"})) as source, manager.api() as client:
        snapshot = client.post(f"/sandboxes/{source.sandbox_id}/snapshots", json={}).raise_for_status().json()
        tries("snapshot of a closed template", template=snapshot["snapshotID"])
    denied = {"network": {"deny_out": [OTHER]}}
    with Sandbox.create(**(options | denied)) as source, manager.api() as client:
        (fork,) = client.post(f"/sandboxes/{source.sandbox_id}/fork", json={}).raise_for_status().json()
        forked = Sandbox.connect(fork["sandbox"]["sandboxID"], domain=manager.domain, api_key=manager.api_key)
        look("fork of one that is denied something", forked)
        forked.kill()
    by_name: dict[str, Any] = {"network": {"deny_out": ["0.0.0.0/0"], "allow_out": ["Some.example"]}}
    tries("one name allowed", **by_name)
    claims("warm, one name allowed", "waits", **by_name)
    tries("closed template, one name allowed", template="closed", **by_name)
    tries("one name allowed later", put(allowOut=["some.example"], denyOut=["0.0.0.0/0"]))
    tries("another name later", put(allowOut=["other.example"], denyOut=["0.0.0.0/0"]), **by_name)
    tries("no name later", put(denyOut=["0.0.0.0/0"]), **by_name)
    for name in ("private.example", "nobody.example"):
        with Sandbox.create(**(options | {"network": {"deny_out": ["0.0.0.0/0"], "allow_out": [name]}})) as sandbox:
            look(f"{name} allowed", sandbox)
            for place in (HOST, "10.0.2.2", "127.0.0.1", "0.0.0.0", name):
                found[f"{name} allowed"][place] = _fetch(sandbox, f"http://{place}:8080/")  # type: ignore[index]  # a dict
    with Sandbox.create(**(options | by_name)) as source, manager.api() as client:
        found["shown"] = client.get(f"/sandboxes/{source.sandbox_id}").json()["network"]["allowOut"]
        (fork,) = client.post(f"/sandboxes/{source.sandbox_id}/fork", json={}).raise_for_status().json()
        forked = Sandbox.connect(fork["sandbox"]["sandboxID"], domain=manager.domain, api_key=manager.api_key)
        look("fork with a name", forked)
        forked.kill()
        for memory in (True, False):
            source.pause(keep_memory=memory)
            source.connect()
            look(f"paused and resumed with a name, memory {memory}", source)
    moves: dict[str, Any] = {"network": {"deny_out": ["0.0.0.0/0"], "allow_out": ["moves.example"]}}
    with Sandbox.create(**(options | moves)) as sandbox:
        look("before the move", sandbox)
        NAMES["moves.example"] = [OTHER]
        wait_for(lambda: "answer of" in _fetch(sandbox, f"http://{OTHER}/"), 30, "the new address")
        wait_for(lambda: "answer of" not in _fetch(sandbox, f"http://{PUBLIC}/"), 30, "the end of the old address")
        look("after the move", sandbox)
        NAMES["moves.example"] = []
        wait_for(lambda: "answer of" not in _fetch(sandbox, f"http://{OTHER}/"), 30, "the end of the new address")
    sandbox = Sandbox.create(**options)
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
    found["left closed"] = Sandbox.create(**(options | {"template": "closed"})).sandbox_id
    found["left with a name"] = Sandbox.create(**(options | by_name)).sandbox_id
    for template in ("waits", "closed"):
        wait_for(lambda: _waiting(manager, template) == 1, 60, f"a warm sandbox of {template}")  # noqa: B023 - at once
    carriers = _carriers(manager)
    found["carriers"] = len(carriers)
    manager.process.kill()
    manager.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in carriers), what="the end of the carriers")
    return found


def _find_out_again(manager: RunningManager, sandbox_id: str) -> dict[str, str]:
    """Return the addresses that a sandbox reaches after the next manager has taken the sandbox over."""
    sandbox = Sandbox.connect(sandbox_id, domain=manager.domain, api_key=manager.api_key)
    return {"public": _fetch(sandbox, f"http://{PUBLIC}/"), "other": _fetch(sandbox, f"http://{OTHER}/")}


def _waiting(manager: RunningManager, template: str) -> float:
    return _metric(manager, f'kruise_agents_pool_size{{template="{template}"}}')


def _warm_claims(manager: RunningManager, template: str) -> float:
    return _metric(manager, f'kruise_agents_pool_claims_total{{template="{template}",start="warm"}}')


def _metric(manager: RunningManager, name: str) -> float:
    text = httpx.get(f"http://{manager.domain}/metrics").raise_for_status().text
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


def _carriers(manager: RunningManager) -> list[int]:
    names = {pid: Path(f"/proc/{pid}/comm").read_text() for pid in descendants(manager.process.pid)}
    return [pid for pid, name in names.items() if name.startswith(("slirp4netns", "pasta", "passt"))]


def _fetch(sandbox: Sandbox, url: str) -> str:
    return sandbox.commands.run(f"curl -sS --max-time 4 {url} 2>&1; true").stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
