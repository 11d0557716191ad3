"""Small writes to a connection: few system calls, and every byte in its order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from kruise_agents.serving import JoinedWrites

LARGE = b"x" * 20_000


class Recorder(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


class Closing(asyncio.Protocol):
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


def done_by(steps: Callable[[JoinedWrites], Awaitable[None] | None]) -> list[bytes | str]:
    async def run() -> list[bytes | str]:
        recorder = Recorder()
        if (waiting := steps(JoinedWrites(recorder))) is not None:
            await waiting
        at_once = list(recorder.done)
        await asyncio.sleep(0)
        assert recorder.done[: len(at_once)] == at_once
        return recorder.done

    return asyncio.run(run())


@pytest.mark.parametrize("body", [b"body", LARGE, b""], ids=["small", "large", "none"])
def test_a_head_and_its_body_are_sent_together(body: bytes) -> None:
    def steps(transport: JoinedWrites) -> None:
        transport.write(b"head ")
        transport.write(body)

    assert done_by(steps) == [b"head " + body]


def test_a_lone_small_write_is_sent_when_the_loop_comes_round() -> None:
    async def steps(transport: JoinedWrites) -> None:
        transport.write(b"a")
        await asyncio.sleep(0)
        transport.write(b"b")

    assert done_by(steps) == [b"a", b"b"]


def test_large_writes_are_sent_at_once_and_in_order() -> None:
    def steps(transport: JoinedWrites) -> None:
        for data in (LARGE, b"a", b"b", b"c", LARGE):
            transport.write(data)

    assert done_by(steps) == [LARGE, b"ab", b"c" + LARGE]


@pytest.mark.parametrize(
    ("end", "expected"), [("close", [b"a", "close"]), ("write_eof", [b"a", "eof"]), ("abort", ["abort"])]
)
def test_what_was_written_before_the_end_is_sent_before_the_end(end: str, expected: list[bytes | str]) -> None:
    def steps(transport: JoinedWrites) -> None:
        transport.write(b"a")
        getattr(transport, end)()

    assert done_by(steps) == expected


def test_on_a_real_connection_the_other_side_reads_all_bytes() -> None:
    def read_all(connection: socket.socket) -> bytes:
        with connection:
            return b"".join(iter(lambda: connection.recv(65536), b""))

    async def send() -> bytes:
        ours, theirs = socket.socketpair()
        reading = asyncio.create_task(asyncio.to_thread(read_all, theirs))
        transport, protocol = await asyncio.get_running_loop().create_connection(Closing, sock=ours)
        joined = JoinedWrites(transport)
        for number in range(1000):
            joined.write(b"%d," % number)
            if number % 7 == 0:
                await asyncio.sleep(0)
        joined.close()
        await protocol.closed.wait()
        return await reading

    assert asyncio.run(send()) == b"".join(b"%d," % number for number in range(1000))
