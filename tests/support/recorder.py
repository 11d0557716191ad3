"""A server on loopback that records requests and answers just enough for an SDK call to go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass(frozen=True)
class RecordedRequest:
    """What arrived; the names of its headers in lower case."""

    method: str
    target: str
    api_key: str | None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, value: object) -> Answer:
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    @classmethod
    def text(cls, status: int, text: str, **headers: str) -> Answer:
        return cls(status, text.encode(), {"Content-Type": "text/plain; charset=utf-8", **headers})


@dataclass
class Recorder:
    """A context manager around the server.

    ``answer`` is the domain in the answer to a create; None leaves it out. ``special`` are answers of their own
    by the end of the path, such as ``POST /v2/sandboxes``; of several, one after the other and the last one for ever.
    """

    answer: str | None = None
    special: dict[str, list[Answer]] = field(default_factory=dict)
    requests: list[RecordedRequest] = field(default_factory=list)

    def __enter__(self) -> Recorder:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
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

    @property
    def api_calls(self) -> list[str]:
        """Method and path below the base of the API."""
        return [str(request).replace("/kruise/api", "", 1) for request in self.requests]

    def _answer(self, method: str, target: str) -> Answer:
        route = target.partition("?")[0].removeprefix("/kruise/api")
        special = self.special.get(f"{method} {route}")
        if special:
            return special[0] if len(special) == 1 else special.pop(0)
        status, body = self._answer_to(method, target)
        return Answer(status) if body is None else Answer.json(status, body)

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
                body, key = self._read_body(), self.headers.get("X-API-Key")
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = RecordedRequest(self.command, self.path, key, body, headers)
                recorder.requests.append(request)
                answer = recorder._answer(self.command, self.path)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _do

            def _read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().partition(b";")[0], 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
                return body

            def log_message(self, format: str, *args: object) -> None:
                """Keep test output clean."""

        return Handler
