"""Close a connection at once where nothing more can come that matters. Runs in the worker.

gunicorn 27 half-closes and then waits up to two seconds for the client to close, so that unread
data does not make the kernel reset the connection under the last of the response. A sync worker
answers nobody meanwhile, and in gthread it is the main loop that waits: four clients that
do not close cost the next one eight seconds. Where the request was read to its end and nothing is
unread there is nothing to wait for.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import termios
from collections.abc import Callable
from typing import Any

from gunicorn import util
from gunicorn.http.body import LengthReader

NOTHING = bytes(4)


class Closer:
    """Remembers by descriptor which connections have nothing left to read, and closes those at once."""

    def __init__(self, lingering: Callable[..., None]) -> None:
        self._lingering = lingering
        self._finished: set[int] = set()

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
        if not finished or not _is_read(fd):
            self._lingering(sock, *arguments, **more)
            return
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            sock.close()


def close_at_once() -> Callable[[Any], None]:
    """Replace gunicorn's lingering close in this process; return what is to be told of every answered request."""
    lingering = getattr(util, "close_graceful", None)  # 26.1 closes at once
    if lingering is None:
        return lambda _request: None
    closer = Closer(lingering)
    util.close_graceful = closer.close
    return closer.note


def _is_read(fd: int) -> bool:
    """Say whether nothing waits in the kernel to be read."""
    try:
        return fcntl.ioctl(fd, termios.FIONREAD, NOTHING) == NOTHING
    except OSError:
        return False
