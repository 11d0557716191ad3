"""A real browser without a screen, and a server to which the browser's pages report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .managers import wait_for
from .needs import browser

_OPTIONS = ("--headless", "--no-sandbox", "--no-first-run", "--no-proxy-server", "--disable-gpu")


@dataclass
class Browser:
    """A browser that shows one address, and the reports of its pages. ``url`` is the address of the reports' server.

    A page reports by a POST of JSON to ``url``. ``pages`` are pages of that server, so that a page can have an origin
    that is no sandbox's.
    """

    url: str
    pages: dict[str, str] = field(default_factory=dict)
    reports: list[Any] = field(default_factory=list)

    def report(self, name: str) -> Any:
        """Wait for the report that has the name ``name``, and return it."""

        def found() -> Any:
            return next((report for report in self.reports if report["name"] == name), None)

        wait_for(found, 60, f"the report {name!r} (there are {self.reports})")
        return found()


@contextlib.contextmanager
def reporting() -> Iterator[Browser]:
    """Run the server of the reports."""
    seen = Browser("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(204, "")

        def do_GET(self) -> None:
            found = seen.pages.get(self.path)
            self._answer(404 if found is None else 200, found or "")

        def _answer(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        seen.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield seen
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def showing(address: str, folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[None]:
    """Open an address in a browser whose profile is in ``folder``, and end the browser after the block."""
    command = [browser() or "", *_OPTIONS, f"--user-data-dir={folder / 'profile'}", address]
    environment = {**os.environ, "HOME": str(folder), **(variables or {})}
    with (folder / "browser.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
