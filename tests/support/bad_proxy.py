"""A reverse proxy before a manager that does what badly configured proxies do."""

from __future__ import annotations

import contextlib
import http.client
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_MOST_BYTES = 1_000_000
_OF_A_HOP = ("connection", "keep-alive", "transfer-encoding", "upgrade", "content-length")


@dataclass
class BadProxy:
    """The proxy, which always collects a whole answer before it sends it on, and drops upgrades.

    Attributes:
        host: the ``Host`` that it sends on in place of the client's.
        statuses: answers in place of the manager's, by a pattern of the method and the path.
        loses_creates: True to send creates on, and close the client's connection without an answer.
    """

    port: int
    upstream: int
    host: str | None = None
    statuses: dict[str, int] = field(default_factory=dict)
    loses_creates: bool = False

    @property
    def domain(self) -> str:
        return f"localhost:{self.port}"


@contextlib.contextmanager
def bad_proxy(upstream: int, **faults: Any) -> Iterator[BadProxy]:
    """Run a proxy before the port of a manager on this machine."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = _body(self)
            line = f"{self.command} {self.path}"
            status = next((code for pattern, code in proxy.statuses.items() if re.search(pattern, line)), None)
            if len(body) > _MOST_BYTES:
                status = 413
            if status is not None:
                self._answer(status, [], b"")
                return
            headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in _OF_A_HOP}
            if proxy.host is not None:
                headers["host"] = proxy.host
            connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=30)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                answer = response.read()
            if proxy.loses_creates and self.command == "POST" and self.path.endswith("/sandboxes"):
                self.close_connection = True
                return
            self._answer(response.status, response.getheaders(), answer)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in _OF_A_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PUT = _serve

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        proxy = BadProxy(server.server_port, upstream, **faults)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(10)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body
