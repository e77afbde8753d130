"""An HTTP server on loopback that counts the marks that arrive in any body: `item-WORKER-NUMBER`."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import re
import threading
import time
import zlib

MARK = re.compile(rb"item-\d+-\d+")
SECONDS = 20


class Collector:
    """The marks that have arrived, and the address at which they do."""

    def __init__(self, server):
        self.port = server.server_port
        self.marks = []
        self.arrived = threading.Condition()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def take(self, body):
        with self.arrived:
            self.marks += MARK.findall(body)
            self.arrived.notify_all()

    def distinct(self, expected):
        """Wait until `expected` different marks have arrived, or the time is over, and return how many have."""
        deadline = time.monotonic() + SECONDS
        with self.arrived:
            self.arrived.wait_for(
                lambda: len(set(self.marks)) >= expected, timeout=max(0, deadline - time.monotonic())
            )
            return len(set(self.marks))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        elif self.headers.get("Content-Encoding") == "deflate":
            body = zlib.decompress(body)
        self.server.collector.take(self.path.encode() + body)
        self._answer(b"{}")

    def do_PUT(self):
        self.do_POST()

    def do_GET(self):
        self.server.collector.take(self.path.encode())
        # LaunchDarkly polls this for its flags
        self._answer(b'{"flags": {}, "segments": {}}' if "latest-all" in self.path else b"{}")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def collecting():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.collector = Collector(server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
