"""Close a connection without blocking the worker. Runs in the worker.

At the end of a connection, gunicorn waits up to two seconds for the client to close it too. Otherwise, if the client
still sends, the kernel would reset the connection and cut the response off. A sync worker answers no other request
meanwhile; in gthread, the main loop waits. This module closes a connection at once if its request was read to its end, and
lets a thread wait for all other connections.
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
CLOSE_TIMEOUT = 2.0  # seconds that a client gets to close its side, as in gunicorn
MAX_DRAINED_BYTES = 65536  # read from a client that still sends, as in gunicorn
MAX_CONNECTIONS = 256  # that wait at once; one more closes the oldest
POLL = 0.1  # seconds between two polls, which include newly added connections


class Lingerer:
    """A thread that waits until clients close their connections; it starts with the first one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connections: dict[int, _Lingering] = {}  # by descriptor, the oldest first
        self._running = False

    def add(self, sock: socket.socket) -> None:
        """Take over a connection whose response has been sent. Raises RuntimeError if no thread can be started."""
        fd = sock.fileno()
        with self._changed:
            if not self._running:
                threading.Thread(target=self._run, name="workerguard-close", daemon=True).start()
                self._running = True
            if len(self._connections) >= MAX_CONNECTIONS:
                self._drop(next(iter(self._connections)))
            detached = socket.socket(fileno=sock.detach())
            detached.setblocking(False)
            self._connections[fd] = _Lingering(detached, time.monotonic() + CLOSE_TIMEOUT)
            self._changed.notify()

    def finish(self) -> None:
        """Wait until all connections are closed, which takes two seconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, CLOSE_TIMEOUT + POLL)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._connections))
                poller = select.poll()
                for fd in self._connections:
                    poller.register(fd, select.POLLIN)
            readable = {fd for fd, _ in poller.poll(POLL * 1000)}
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
        """Read the available data, and return whether the client has closed or has sent too much."""
        try:
            data = self.sock.recv(MAX_DRAINED_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._drained += len(data)
        return not data or self._drained >= MAX_DRAINED_BYTES


class Closer:
    """Closes connections: at once if the request was read to its end, otherwise through the `Lingerer`."""

    def __init__(self, gunicorn_close: Callable[..., None]) -> None:
        self._gunicorn_close = gunicorn_close  # if no thread can be started
        self._finished: set[int] = set()
        self._lingerer = Lingerer()

    def record(self, request: Any) -> None:
        """Record whether an answered request was read to its end."""
        try:
            reader, fd = request.body.reader, request.unreader.sock.fileno()
        except AttributeError:  # HTTP/2 requests have no such reader
            return
        if type(reader) is LengthReader and not reader.length:
            self._finished.add(fd)
        else:
            self._finished.discard(fd)

    def close(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        """Close a connection, with the signature of gunicorn's ``util.close_graceful``."""
        fd = sock.fileno()
        finished = fd in self._finished
        self._finished.discard(fd)
        if fd < 0:  # already closed, because the response broke off
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
        except OSError:  # the client is gone
            with contextlib.suppress(OSError):
                sock.close()
        except RuntimeError:
            self._gunicorn_close(sock, *arguments, **more)

    def finish(self) -> None:
        """Wait for the last connections before the process ends."""
        self._lingerer.finish()


def close_without_waiting() -> Closer:
    """Replace gunicorn's lingering close in this process."""
    closer = Closer(util.close_graceful)
    util.close_graceful = closer.close
    return closer


def _is_read(fd: int) -> bool:
    """Return whether the kernel holds no unread data of a connection."""
    try:
        return fcntl.ioctl(fd, termios.FIONREAD, NOTHING) == NOTHING
    except OSError:
        return False
