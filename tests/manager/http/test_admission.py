"""Bounds on connections: no number of idle connections stops a manager."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.http import admission
from kruise_agents.manager.http.admission import Admission, Listener, allow_many_descriptors, peer_of
from kruise_agents.patch_e2b import patch_e2b
from support.fronts import Front, read_until, running_front
from support.managers import running_manager, wait_for

HEALTH = b"GET /health HTTP/1.1\r\nHost: d.example\r\n\r\n"
TO_SANDBOX = b"GET /kruise/sb1/3000/ HTTP/1.1\r\nHost: d.example\r\n\r\n"
CROWD = 1100
SOFT_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))"
HARD_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allow_many_descriptors()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.live
@pytest.mark.parametrize(
    ("prelude", "options"), [(SOFT_LIMIT, []), (HARD_LIMIT, []), (HARD_LIMIT, ["--tls"])], ids=["soft", "hard", "tls"]
)
def test_a_thousand_idle_connections_without_a_key_stop_no_manager(
    prelude: str, options: list[str], tmp_path: Path
) -> None:
    with running_manager(tmp_path, *options, runtime="process", prelude=prelude) as manager:
        context = ssl.create_default_context(cafile=manager.tls / "ca.pem") if manager.tls else True
        with httpx.Client(base_url=manager.api_url, headers={"X-API-Key": manager.api_key}, verify=context) as client:
            with contextlib.ExitStack() as crowd:
                for _ in range(CROWD):
                    crowd.enter_context(socket.create_connection(("127.0.0.1", manager.port), timeout=20))
                for _ in range(20):
                    assert client.get("/sandboxes").status_code == 200
                with httpx.Client(base_url=manager.api_url, verify=context) as other:
                    assert other.get("/sandboxes").status_code == 401
            assert client.get("/sandboxes").status_code == 200
        assert manager.log.stat().st_size < 20_000
        assert "Traceback" not in manager.log.read_text()


@pytest.mark.needs("namespaces")
@pytest.mark.parametrize("options", [[], ["--no-prefork"]], ids=["forked", "executed"])
def test_sandboxes_are_made_and_ended_beside_a_thousand_connections(options: list[str], tmp_path: Path) -> None:
    with running_manager(tmp_path, "--no-internet", *options) as manager, contextlib.ExitStack() as crowd:
        for _ in range(CROWD):
            crowd.enter_context(socket.create_connection(("127.0.0.1", manager.port), timeout=20))
        with patch_e2b(False):
            sandbox = Sandbox.create(domain=manager.domain, api_key=manager.api_key)
            assert sandbox.run_code("1 + 1").text == "2"
            sandbox.pause()
            sandbox = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
            snapshot = sandbox.create_snapshot().snapshot_id
            assert sandbox.commands.run("echo fine").stdout == "fine\n"
            assert sandbox.kill()
            with Sandbox.create(snapshot, domain=manager.domain, api_key=manager.api_key) as copy:
                assert copy.commands.run("echo fine").stdout == "fine\n"
        assert "Traceback" not in manager.log.read_text()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A front that takes six connections, and four of one peer."""
    monkeypatch.setattr(Admission, "within_descriptors", lambda *, tls: Admission(6, 4, 1_000_000))
    with running_front() as front:
        yield front


def connect(front: Front, peer: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", front.port), timeout=20, source_address=(peer, 0))


def answers(connection: socket.socket) -> bool:
    try:
        connection.sendall(HEALTH)
        return read_until(connection, b"\r\n\r\napi").startswith(b"HTTP/1.1 200 ")
    except (OSError, AssertionError):
        return False


def test_the_longest_idle_connection_of_a_peer_makes_room(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        first, second, *_ = [stack.enter_context(connect(front)) for _ in range(4)]
        assert answers(first), "now the second is idle for the longest time"
        other = stack.enter_context(connect(front, "127.0.0.2"))
        assert answers(stack.enter_context(connect(front)))
        assert second.recv(1) == b""
        assert answers(first)
        assert answers(other)


def test_a_half_sent_head_keeps_no_place(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(front)) for _ in range(4)]
        for connection in connections:
            connection.sendall(HEALTH[:20])
        assert answers(stack.enter_context(connect(front)))


def test_a_request_in_progress_is_not_closed_for_others(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    front.answers[3000] = []  # the application never answers
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(front)) for _ in range(4)]
        for connection in waiting:
            connection.sendall(TO_SANDBOX)
        wait_for(lambda: len(front.arrivals) == 4)
        for _ in range(20):
            assert stack.enter_context(connect(front)).recv(1) == b"", "the peer has no idle connection"
        other = stack.enter_context(connect(front, "127.0.0.2"))
        assert answers(other), "another peer has room"
        for connection in waiting:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
    messages = [record.getMessage() for record in caplog.records if record.name == admission.__name__]
    assert messages == [
        "too many connections, the last one from 127.0.0.1: 1 refused; the manager takes 6, and 4 from one address"
    ]


def test_all_peers_together_are_bounded_and_the_longest_idle_one_makes_room(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(connect(front, f"127.0.0.{1 + number // 3}")) for number in range(6)]
        assert answers(stack.enter_context(connect(front, "127.0.0.9")))
        assert first.recv(1) == b""


def test_places_of_closed_connections_are_free_again(front: Front) -> None:
    for _ in range(30):
        with connect(front) as connection:
            assert answers(connection)
    wait_for(lambda: not front.connections)
    assert not admission.Connection.by_descriptor


def test_a_full_table_of_descriptors_refuses_and_does_not_spin() -> None:
    bounds = Admission(100, 100, most_descriptors=0)
    with Listener(socket.AF_INET, socket.SOCK_STREAM, 0, bounds) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()) as connection:
            with pytest.raises(BlockingIOError):
                listener.accept()
            assert connection.recv(1) == b""


def test_peers_of_ipv6_are_networks() -> None:
    assert peer_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert peer_of(("2001:db8::1", 1, 0, 0)) == peer_of(("2001:db8::ffff", 1, 0, 0)) == "2001:db8::/64"
    assert peer_of(("fe80::1%eth0", 1, 0, 2)) == "fe80::/64"


def test_without_a_free_descriptor_connections_are_refused_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = Admission(100, 100, most_descriptors=1_000_000)
    close = os.close
    stolen: list[int] = []

    def close_for_another_thread(descriptor: int) -> None:
        close(descriptor)
        stolen.append(os.open(os.devnull, os.O_RDONLY))

    with Listener(socket.AF_INET, socket.SOCK_STREAM, 0, bounds) as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)

        def arrive() -> socket.socket:
            return stack.enter_context(socket.create_connection(listener.getsockname(), timeout=20))

        arrive()
        stack.enter_context(listener.accept()[0])
        for _ in range(3):
            first, second = arrive(), arrive()
            with no_free_descriptor(), pytest.raises(BlockingIOError):
                listener.accept()
            assert first.recv(1) == second.recv(1) == b""
        last = arrive()
        with no_free_descriptor():
            with monkeypatch.context() as patch:
                patch.setattr(os, "close", close_for_another_thread)
                with pytest.raises(OSError, match="Too many open files"):
                    listener.accept()
            close(stolen.pop())
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert last.recv(1) == b""


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
