"""Checks of features that a reverse proxy easily spoils, such as streams, silence, raw paths and WebSockets.

usage: E2B_DOMAIN=... E2B_API_KEY=... SSL_CERT_FILE=... long_way.py <folder with web.py and ws.py>

Ends with code 0 when all of it held.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from kruise_agents.patch_e2b import patch_e2b

patch_e2b()

from e2b_code_interpreter import Sandbox  # noqa: E402 - after the patch, as the README imports it

PROGRAMS = Path(sys.argv[1])
DOMAIN = os.environ["E2B_DOMAIN"]
SILENCE = 65.0
"""Longer than what nginx waits unless it is told otherwise (60 seconds)."""
CHAT = Subprotocol("chat")
LARGE = random.Random(1).randbytes(50 << 20)


def walk(sbx: Sandbox) -> None:
    web, ws = served(sbx, "web.py", 3001), served(sbx, "ws.py", 3002)
    with connect(
        f"wss{ws.removeprefix('https')}/quiet", subprotocols=[CHAT], ping_interval=None, max_size=None
    ) as silent:
        expect("WebSocket", silent.recv().split()[0], "/quiet")
        begun = time.monotonic()
        output_comes_while_it_is_made(sbx)
        a_large_file_goes_both_ways(sbx)
        a_large_body_goes_to_a_port(web)
        paths_and_headers_arrive_as_they_were_sent(sbx, web)
        who_leaves_is_gone(sbx, web)
        counts_are_not_for_everybody()
        time.sleep(max(begun + SILENCE - time.monotonic(), 0))
        silent.send("still there")
        expect("WebSocket after a long silence", silent.recv(), "still there")
        silent.send("m" * (3 << 20))
        expect("large message", len(silent.recv()), 3 << 20)


def served(sbx: Sandbox, name: str, port: int) -> str:
    sbx.files.write(name, (PROGRAMS / name).read_text())
    sbx.commands.run(f"exec python {name} {port} > {name}.log 2>&1", background=True, timeout=0)
    url = f"https://{sbx.get_host(port)}"
    eventually(lambda: httpx.get(f"{url}/ready").status_code != 502, f"{name} listening")
    return url


def output_comes_while_it_is_made(sbx: Sandbox) -> None:
    """Check that output arrives while a cell runs. The cell goes on only when its first line was seen."""
    seen: list[str] = []

    def line(message: object) -> None:
        seen.append(str(message).strip())
        if seen == ["first"]:
            sbx.files.write("seen", "")

    code = """
import pathlib, time
print('first', flush=True)
while not pathlib.Path('/home/user/seen').exists():
    time.sleep(0.05)
for number in range(40):
    print(number, flush=True)
    time.sleep(0.25)
"""
    execution = sbx.run_code(code, on_stdout=line, timeout=120)
    expect("run_code", execution.error, None)
    expect("lines", [word for text in seen for word in text.split()], ["first", *map(str, range(40))])


def a_large_file_goes_both_ways(sbx: Sandbox) -> None:
    sbx.files.write("large.bin", LARGE, request_timeout=120)
    digest = sbx.commands.run("sha256sum large.bin").stdout.split()[0]
    expect("upload", digest, hashlib.sha256(LARGE).hexdigest())
    expect("download", bytes(sbx.files.read("large.bin", format="bytes", request_timeout=120)) == LARGE, True)


def a_large_body_goes_to_a_port(web: str) -> None:
    pieces = (LARGE[start : start + 65536] for start in range(0, len(LARGE), 65536))
    answer = httpx.post(f"{web}/digest", content=pieces, timeout=120).json()
    expect("chunked body", (answer["size"], answer["sha256"]), (len(LARGE), hashlib.sha256(LARGE).hexdigest()))


def paths_and_headers_arrive_as_they_were_sent(sbx: Sandbox, web: str) -> None:
    target = "/a%2Fb/%20c//d?x=%2B&y=a+b"
    request = f"GET {web.partition(DOMAIN)[2]}{target} HTTP/1.1\r\nHost: {DOMAIN}\r\nlang_version: 3\r\n"
    request += f"Connection: close\r\nX-Long: {'h' * 12_000}\r\n\r\n"
    with (
        socket.create_connection((DOMAIN, 443), timeout=20) as plain,
        ssl.create_default_context().wrap_socket(plain, server_hostname=DOMAIN) as connection,
    ):
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    expect("status", answer.split()[1], "200")
    expect("the raw target", f'"target": "{target}"' in answer, True)
    expect("a header with an underscore", '"lang_version"' in answer, True)
    expect("a long header", "h" * 12_000 in answer, True)


def who_leaves_is_gone(sbx: Sandbox, web: str) -> None:
    with httpx.stream("GET", f"{web}/endless") as answer:
        next(answer.iter_raw())
    eventually(lambda: sbx.files.exists("gone"), "the application learns that its client has left")


def counts_are_not_for_everybody() -> None:
    expect("/metrics", httpx.get(f"https://{DOMAIN}/metrics").status_code, 404)
    expect("/health", httpx.get(f"https://{DOMAIN}/kruise/api/health").status_code, 200)


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within 30 seconds")
        time.sleep(0.05)


def expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: found {found!r:.300}, wanted {wanted!r:.300}")


if __name__ == "__main__":
    with Sandbox.create(timeout=600) as sandbox:
        walk(sandbox)
    print("walked", flush=True)
    os._exit(0)  # as in walk.py
