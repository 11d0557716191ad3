"""An HTTP/1.1 server that expects the prefix in the file `base`, as Vite with --base. usage: based.py PORT"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BASE = Path("base").read_text()
SEEN: list[str] = []


class Based(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path != f"{BASE}/seen":
            SEEN.append(f"{self.command} {self.path}")
        if self.headers.get("Upgrade"):
            self.upgrade()
        elif self.path.partition("?")[0] == "/":
            self.answer(302, b"elsewhere", Location=BASE + self.path)
        elif self.path == "/cookie":
            self.answer(302, b"", Location=f"{BASE}/cookie", **{"Set-Cookie": "a=1"})
        elif self.path == "/gone":
            self.answer(302, b"over there", Location=f"{BASE}/gone")
        elif self.path == f"{BASE}/seen":
            self.answer(200, json.dumps(SEEN).encode())
        elif self.path.startswith(f"{BASE}/") and not self.path.endswith("/gone"):
            self.answer(200, f"page {self.path.removeprefix(BASE)}".encode())
        else:
            self.answer(404, b"did you mean another path?")

    do_HEAD = do_GET

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def upgrade(self):
        if self.path.startswith(f"{BASE}/"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            self.wfile.write(b"hello")
            self.close_connection = True
        else:
            self.answer(400, b"")

    def answer(self, status, body, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Based).serve_forever()
