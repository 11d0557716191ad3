"""An HTTP server of prepared pages. usage: pages.py PORT

`pages.json` has a list of headers and a text for each path. `/cookies` shows the cookies of the request.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGES = json.loads(Path("pages.json").read_text())


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        headers, text = PAGES.get(self.path.partition("?")[0], ([], "no such page"))
        if self.path == "/cookies":
            text = self.headers.get("Cookie", "")
        self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Pages).serve_forever()
