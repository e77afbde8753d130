"""The load: a few clients that each send one request after the other. Runs in threads of the drill's process."""

from __future__ import annotations

import http.client
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from django_workerguard.drill.measure import Request

PAUSE = 0.05  # seconds between two requests of a client, at least
PAUSES = 3  # times the last answer: a client keeps a worker busy for a quarter of the time, so that loads have a CPU, too
RESERVED = "/:?#[]@!$&'()*+,;=%~"  # what a path may have in it already
LONGEST = 20.0  # seconds that a client waits for an answer


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket, with TLS if the server has a certificate. The certificate is not verified."""

    def __init__(self, path: Path, *, tls: bool) -> None:
        super().__init__("localhost", timeout=LONGEST)
        self._path, self._tls = path, tls

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(LONGEST)
        self.sock.connect(str(self._path))
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock)


class Load:
    """A closed loop: each client waits for its answer, pauses, and asks for the next path. GET only."""

    def __init__(
        self, socket_path: Path, paths: Sequence[str], headers: Mapping[str, str], *, clients: int, tls: bool
    ) -> None:
        self._socket_path, self._paths, self._headers, self._tls = socket_path, paths, dict(headers), tls
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number,), daemon=True) for number in range(clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(LONGEST if kind is None else 0)  # an interrupted drill waits for no answer

    @property
    def requests(self) -> list[Request]:
        """The requests that have ended so far."""
        with self._lock:
            return list(self._requests)

    def _ask_on(self, first: int) -> None:
        for path in itertools.islice(itertools.cycle(self._paths), first % len(self._paths), None):
            request = self.ask(path)
            with self._lock:
                self._requests.append(request)
            if self._over.wait(max(PAUSE, PAUSES * request.seconds)):
                return

    def ask(self, path: str) -> Request:
        """Send one request."""
        connection = Connection(self._socket_path, tls=self._tls)
        sent, begun = time.time(), time.monotonic()
        status, error = 0, ""
        try:
            connection.request(
                "GET", quote(path, safe=RESERVED), headers={**self._headers, "Connection": "close"}
            )
            response = connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException) as failure:
            error = _named(failure)
        finally:
            connection.close()
        return Request(path=path, sent=sent, seconds=time.monotonic() - begun, status=status, error=error)


def _named(failure: Exception) -> str:
    match failure:
        case TimeoutError():
            return f"no answer within {LONGEST:g} s"
        case ConnectionRefusedError() | FileNotFoundError():
            return "nobody listens"
        case http.client.RemoteDisconnected() | ConnectionResetError() | BrokenPipeError():
            return "closed without an answer"
        case http.client.IncompleteRead():
            return "closed in the middle of the answer"
    return f"{type(failure).__name__}: {failure}"
