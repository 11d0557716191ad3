"""The port-forward to a manager in a cluster. ``kubectl`` is a program that acts as the real one does."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.proxy.port_forward import Service
from support.upstreams import Pair, get, proxied, run

pytestmark = pytest.mark.live

KUBECTL = f"""#!{sys.executable}
import os, pathlib, socket, sys, threading

folder = pathlib.Path(__file__).parent
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
problem = folder / "problem"
if problem.exists():
    sys.exit("error: " + problem.read_text())
listener = socket.create_server(("127.0.0.1", 0))
(folder / "pid").write_text(str(os.getpid()))
print(f"Forwarding from 127.0.0.1:{{listener.getsockname()[1]}} -> 7788", flush=True)

def copy(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)

while True:
    client, _ = listener.accept()
    if (folder / "pod-gone").exists():
        print("E1130 an error occurred forwarding 1 -> 7788: error forwarding port 7788 to pod 1, uid : "
              "container not running (1)", file=sys.stderr, flush=True)
        client.close()
        continue
    pod = socket.create_connection(("127.0.0.1", int((folder / "pod").read_text())))
    for pair in ((client, pod), (pod, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""
SERVICE = Service("sandbox-system", "sandbox-manager")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a ``kubectl`` that is the first on PATH."""
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


async def soon(pair: Pair) -> bytes:
    """Ask until the answer is not one of the proxy itself."""
    while True:
        answer = await pair.ask(get("/teams", "localhost"))
        if not answer.startswith(b"HTTP/1.1 50"):
            return answer


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("sandbox-system/sandbox-manager", SERVICE),
        ("a/b.c:80", Service("a", "b.c", 80)),
    ],
)
def test_forms_of_a_service(text: str, service: Service) -> None:
    assert Service.parse(text) == service


@pytest.mark.parametrize("text", ["sandbox-manager", "a/b:0", "a/b:70000", "-a/b", "a/b/c", "A/b", "a/--help"])
def test_what_is_no_service(text: str) -> None:
    with pytest.raises(ConfigurationError, match="sandbox-system/sandbox-manager"):
        Service.parse(text)


def test_it_is_started_again_when_its_pod_goes(cluster: Path) -> None:
    told: list[str] = []

    async def scenario() -> None:
        async with proxied() as pod:
            (cluster / "pod").write_text(str(pod.proxy.port))
            async with proxied(upstream=SERVICE, tell=told.append) as pair:
                assert (await pair.ask(get("/teams", "localhost"))).endswith(b"\r\n\r\nok")
                assert told == []
                os.kill(int((cluster / "pid").read_text()), 15)
                assert (await soon(pair)).endswith(b"\r\n\r\nok")
                (cluster / "pod-gone").touch()
                while len(told) < 3:  # one request alone would use the connection that was kept
                    await asyncio.gather(*(pair.ask(get("/teams", "localhost")) for _ in range(4)))
                (cluster / "pod-gone").unlink()
                assert (await soon(pair)).endswith(b"\r\n\r\nok")

    run(scenario())
    calls = (cluster / "calls").read_text().splitlines()
    assert set(calls) == {"port-forward --namespace sandbox-system --address 127.0.0.1 service/sandbox-manager :7788"}
    assert told[0] == (
        "the port-forward to sandbox-system/sandbox-manager:7788 ended: kubectl ended with code -15; "
        "it is started again now"
    )
    assert told[1] == "the port-forward to sandbox-system/sandbox-manager:7788 is up again"
    assert "container not running" in told[2]
    assert not Path("/proc", (cluster / "pid").read_text()).exists()


def test_while_it_is_down_clients_are_told(cluster: Path) -> None:
    async def scenario() -> None:
        async with proxied() as pod:
            (cluster / "pod").write_text(str(pod.proxy.port))
            async with proxied(upstream=SERVICE) as pair:
                (cluster / "problem").write_text("no pods are there")
                os.kill(int((cluster / "pid").read_text()), 15)
                answer = ""
                while not answer.startswith("HTTP/1.1 503 "):  # kubectl may just end with this request in it
                    answer = (await pair.ask(get("/teams", "localhost"))).decode()
                assert "the port-forward to sandbox-system/sandbox-manager:7788 is down" in answer
                assert "no pods are there" in answer

    run(scenario())


def test_a_first_start_that_fails_is_told_with_the_words_of_kubectl(cluster: Path) -> None:
    (cluster / "problem").write_text('services "sandbox-manager" not found')

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match='does not start: services "sandbox-manager" not found'):
            await proxied(upstream=SERVICE).__aenter__()

    run(scenario())


def test_without_kubectl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match="kubectl was not found on PATH"):
            await proxied(upstream=SERVICE).__aenter__()

    run(scenario())
