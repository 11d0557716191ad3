"""A server on loopback that records requests and answers just enough for an SDK call to go on."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass(frozen=True)
class RecordedRequest:
    """What arrived."""

    method: str
    target: str
    api_key: str | None


@dataclass
class Recorder:
    """A context manager around the server.

    ``answer`` is the domain in the answer to a create; None leaves it out.
    """

    answer: str | None = None
    requests: list[RecordedRequest] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def domain(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def _answer_to(self, method: str, target: str) -> tuple[int, object]:
        route = target.partition("?")[0]
        if method == "POST" and route.endswith("/sandboxes"):
            created = {"templateID": "t", "sandboxID": "sbx", "clientID": "c", "envdVersion": "0.4.0"}
            return 201, {**created, "domain": self.answer} if self.answer else created
        if method == "DELETE" or route.endswith("/health"):
            return 204, None
        if route.endswith("/files"):
            return 200, [{"name": "a", "type": "file", "path": "/a"}]
        return 404, {"code": "not_found", "message": "not here"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.close_connection = True
                super().handle_one_request()

            def _do(self) -> None:
                self._read_body()
                recorder.requests.append(RecordedRequest(self.command, self.path, self.headers.get("X-API-Key")))
                status, body = recorder._answer_to(self.command, self.path)
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = _do

            def _read_body(self) -> None:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    return
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    self.rfile.read(size + 2)
                self.rfile.readline()

            def log_message(self, format: str, *args: object) -> None:
                """Keep test output clean."""

        return Handler
