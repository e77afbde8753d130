"""The monitor's HTTP server. Runs in the monitor.

A thread for each connection, which serves one request. No client can keep others from being answered: a connection has
seconds and a number of bytes for its request, seconds for its response, and the oldest one that still reads is closed if
there are too many.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, ThreadingMixIn
from typing import Any

from django_workerguard.report.health import Answer, respond

MOST_CONNECTIONS = 64
LONGEST_REQUEST = 16384  # bytes
PATIENCE = 5.0  # seconds for a request, and again for its response
POLL = 0.5  # seconds between two looks at the parent, and until it leaves
SHORTAGE = 0.1  # seconds
BROKEN = respond(500, "The monitor could not answer: see the server's log.\n", "text/plain; charset=utf-8")

Respond = Callable[[str, Callable[[str, str], str]], Answer]  # target, and a header by name with a default


class Connections:
    """The open connections, the oldest first, each with whether its request is being read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._reading: dict[socket.socket, bool] = {}
        self._lock = threading.Lock()

    def add(self, connection: socket.socket) -> None:
        """Take in a connection. If there are too many, shut down the oldest that still reads, or else the oldest."""
        with self._lock:
            if len(self._reading) >= self._most:
                oldest = next(iter(self._reading))
                victim = next((one for one, reading in self._reading.items() if reading), oldest)
                del self._reading[victim]
                with contextlib.suppress(OSError):
                    victim.shutdown(socket.SHUT_RDWR)  # its thread ends by this
            self._reading[connection] = True

    def has_request(self, connection: socket.socket) -> None:
        """Note that the request has been read."""
        with self._lock:
            if connection in self._reading:
                self._reading[connection] = False

    def remove(self, connection: socket.socket) -> None:
        with self._lock:
            self._reading.pop(connection, None)


class Server(ThreadingMixIn, BaseServer):
    """Serves on a socket that listens already."""

    daemon_threads = False  # each ends in time

    def __init__(
        self,
        listener: socket.socket,
        respond: Respond,
        *,
        between: Callable[[], None],
        most: int = MOST_CONNECTIONS,
    ) -> None:
        """``between`` is called every POLL seconds."""
        super().__init__("", Handler)
        self.socket = listener
        self.respond = respond
        self.connections = Connections(most)
        self._between = between

    def fileno(self) -> int:
        return self.socket.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return self.socket.accept()
        except BlockingIOError:
            raise
        except OSError:
            time.sleep(
                SHORTAGE
            )  # no descriptor is free: the connection still waits, and would be tried again at once
            raise

    def leave(self) -> None:
        """Have `serve_forever` return. For a signal handler, which must not wait for that."""
        threading.Thread(target=self.shutdown, daemon=True).start()

    def server_close(self) -> None:
        """Close the listener, and wait until every open connection has its response."""
        self.socket.close()
        super().server_close()

    def service_actions(self) -> None:
        self._between()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.remove(request)
        with contextlib.suppress(OSError):
            request.shutdown(socket.SHUT_WR)
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a connection that fails: its client has gone, or there is no memory for a thread."""


class Handler(BaseHTTPRequestHandler):
    """One request and its response. The standard library parses the head once it is there as a whole."""

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.connection = self.request
        self.wfile = io.BytesIO()
        head = self._read_head()
        self.server.connections.has_request(self.request)
        self.rfile = io.BytesIO(head)

    def _read_head(self) -> bytes:
        """Return the request up to its empty line; b"" if that does not come in time, or is too far."""
        deadline, data = time.monotonic() + PATIENCE, b""
        while b"\r\n\r\n" not in data and b"\n\n" not in data:
            left = deadline - time.monotonic()
            if left <= 0 or len(data) >= LONGEST_REQUEST:
                return b""
            self.request.settimeout(left)
            try:
                more = self.request.recv(LONGEST_REQUEST - len(data))
            except OSError:
                return b""
            if not more:
                return b""
            data += more
        return data

    def handle(self) -> None:
        self.handle_one_request()

    def finish(self) -> None:
        self.request.settimeout(PATIENCE)  # for the whole response
        self.request.sendall(self.wfile.getvalue())  # type: ignore[attr-defined] # of BytesIO

    def do_GET(self) -> None:
        self._send(self._answer())

    def do_HEAD(self) -> None:
        self._send(self._answer(), body=False)

    def _answer(self) -> Answer:
        try:
            return self.server.respond(self.path, self.headers.get)
        except Exception:
            sys.stderr.write(f"The monitor could not answer:\n{traceback.format_exc()}")
            return BROKEN

    def _send(self, answer: Answer, *, body: bool = True) -> None:
        self.send_response(answer.status)
        for name, value in (*answer.headers, ("X-Content-Type-Options", "nosniff"), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        return "workerguard"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: probes come every few seconds."""
