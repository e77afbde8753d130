"""Close a connection without holding the worker up. Runs in the worker.

gunicorn waits at the end of a connection, up to two seconds, until the client closes too: closed
earlier, the kernel would reset it and cut the response off if the client still sends. A sync worker
answers no other request meanwhile, and in gthread it is the main loop that waits. Here a connection whose request was
read to its end is closed at once, and a thread waits for all others.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

from gunicorn import util
from gunicorn.http.body import LengthReader

NOTHING = bytes(4)
CLOSE_TIMEOUT = 2.0  # seconds that a client gets to close, as gunicorn has it
MAX_DRAINED_BYTES = 65536  # that are read of what a client still sends, as gunicorn has it
MAX_CONNECTIONS = 256  # connections that are waited for at once; the longest there is closed for one more
POLL = 0.1  # seconds between two looks at connections that have come meanwhile


class Lingerer:
    """A thread that waits for clients to close, once there is one to wait for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connections: dict[int, _Lingering] = {}  # by descriptor, the longest there first
        self._running = False

    def add(self, sock: socket.socket) -> None:
        """Take over a connection whose response has been sent. Raises RuntimeError where no thread is to be had."""
        fd = sock.fileno()
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="workerguard-close", daemon=True).start()
                self._running = True
            if len(self._connections) >= MAX_CONNECTIONS:
                self._drop(next(iter(self._connections)))
            own = socket.socket(fileno=sock.detach())
            own.setblocking(False)
            self._connections[fd] = _Lingering(own, time.monotonic() + CLOSE_TIMEOUT)
            self._changed.notify()

    def finish(self) -> None:
        """Wait until no client is waited for any more, which takes two seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, CLOSE_TIMEOUT + POLL)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._connections))
                watched = select.poll()
                for fd in self._connections:
                    watched.register(fd, select.POLLIN)
            readable = {fd for fd, _ in watched.poll(POLL * 1000)}
            now = time.monotonic()
            with self._changed:
                for fd, connection in list(self._connections.items()):
                    if now >= connection.until or (fd in readable and connection.is_over()):
                        self._drop(fd)
                self._changed.notify()

    def _drop(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._connections.pop(fd).sock.close()


class _Lingering:
    """A connection whose client has not closed yet."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self._drained = 0

    def is_over(self) -> bool:
        """Read what there is, and say whether the client has closed or sent too much."""
        try:
            data = self.sock.recv(MAX_DRAINED_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._drained += len(data)
        return not data or self._drained >= MAX_DRAINED_BYTES


class Closer:
    """Remembers by descriptor which connections have nothing left to read, and closes those at once."""

    def __init__(self, lingering: Callable[..., None]) -> None:
        self._lingering = lingering  # gunicorn's, where no thread is to be had
        self._finished: set[int] = set()
        self._lingerer = Lingerer()

    def note(self, request: Any) -> None:
        """Take note of a request that has been answered, whether it was read to its end."""
        try:
            reader, fd = request.body.reader, request.unreader.sock.fileno()
        except AttributeError:  # HTTP/2, which has no end of this kind
            return
        if type(reader) is LengthReader and not reader.length:
            self._finished.add(fd)
        else:
            self._finished.discard(fd)

    def close(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        """Close a connection. Has the signature of gunicorn's ``util.close_graceful``."""
        fd = sock.fileno()
        finished = fd in self._finished
        self._finished.discard(fd)
        if fd < 0:  # a response that broke off has closed it before
            return
        if finished and _is_read(fd):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                sock.close()
            return
        try:
            socket.socket.shutdown(sock, socket.SHUT_WR)
            self._lingerer.add(sock)
        except OSError:  # the client has gone
            with contextlib.suppress(OSError):
                sock.close()
        except RuntimeError:
            self._lingering(sock, *arguments, **more)

    def finish(self) -> None:
        """Wait for the last clients to close, before the process ends."""
        self._lingerer.finish()


def close_without_waiting() -> Closer | None:
    """Replace gunicorn's lingering close in this process; None where it has none (26.1 closes at once)."""
    lingering = getattr(util, "close_graceful", None)
    if lingering is None:
        return None
    closer = Closer(lingering)
    util.close_graceful = closer.close
    return closer


def _is_read(fd: int) -> bool:
    """Say whether nothing waits in the kernel to be read."""
    try:
        return fcntl.ioctl(fd, termios.FIONREAD, NOTHING) == NOTHING
    except OSError:
        return False
