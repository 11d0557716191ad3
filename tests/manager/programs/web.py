"""An HTTP/1.1 server that tells what it saw. usage: web.py PORT"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

MEGABYTE = b"m" * (1 << 20)


class Web(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        route = urlsplit(self.path).path.rsplit("/", 1)[-1]
        getattr(self, f"get_{route}", self.get_seen)()

    do_HEAD = do_OPTIONS = do_PATCH = do_DELETE = do_GET

    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        for piece in self.body():
            digest.update(piece)
            size += len(piece)
            if self.path == "/first-bytes":
                Path("first-bytes").write_text(str(size))
        self.reply({"sha256": digest.hexdigest(), "size": size, "chunked": "Transfer-Encoding" in self.headers})

    do_PUT = do_POST

    def get_seen(self):
        self.reply({"method": self.command, "target": self.path, "headers": [list(h) for h in self.headers.items()]})

    def get_megabytes(self):
        count = int(urlsplit(self.path).query)
        self.send_response(200)
        self.send_header("Content-Length", str(count << 20))
        self.end_headers()
        for _ in range(count):
            self.wfile.write(MEGABYTE)

    def get_drip(self):
        """Send a chunk at once, and the next chunk only when the file `go` exists."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        while not Path("go").exists():
            pass
        self.wfile.write(b"6\r\nsecond\r\n0\r\n\r\n")

    def get_endless(self):
        """Writes until the other side is gone, then says so in the file `gone`."""
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x" * 1000)
                self.wfile.flush()
        except OSError:
            Path("gone").write_text("yes")
        self.close_connection = True

    def get_cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")
        self.close_connection = True

    def get_redirect(self):
        self.send_response(302)
        self.send_header("Location", "/login?next=/")
        self.send_header("Set-Cookie", "session=1; Path=/; HttpOnly")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get_not_modified(self):
        self.send_response(304)
        self.send_header("Content-Length", "1234")
        self.end_headers()

    def get_status(self):
        self.send_response(int(urlsplit(self.path).query))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get_both_framings(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"b\r\nhello world\r\n0\r\n\r\n")

    def get_large_head(self):
        self.send_response(200)
        for number in range(30):
            self.send_header(f"X-Large-{number}", "x" * 3000)
            self.flush_headers()
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (piece := self.rfile.read(min(left, 1 << 16))):
            left -= len(piece)
            yield piece


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Web).serve_forever()
