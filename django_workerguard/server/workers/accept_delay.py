"""Delay `accept` in a suspect worker, and until a client has sent something. Runs in the worker.

A worker whose requests all fail finishes each at once, and so accepts more connections than the others: two such workers
of eight took 36 to 72 % of the requests. A delay of a few milliseconds before `accept` leaves the connection to a healthy
worker. If all workers are suspect, each still answers about two hundred requests per second.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from django_workerguard.server.workers.request_counter import RequestCount

DELAY = 0.005  # seconds
_sleep = time.sleep  # gevent replaces time.sleep, and its version cannot be used in its hub


def delay_accept_while_suspect(sockets: list[Any], count: RequestCount) -> None:
    """Replace the sockets in a worker's listeners by sockets that delay `accept` while the worker is suspect."""
    for listener in sockets:
        if hasattr(listener, "sock"):  # gunicorn's wrapper
            listener.sock = _delayed(listener.sock, "accept", count)
        else:  # gevent's, whose server calls _accept on the inner socket
            listener._sock = _delayed(listener._sock, "_accept", count)


def defer_accept(sockets: list[Any], timeout: float) -> None:
    """Let the kernel hold a TCP connection until its client has sent something, at most ``timeout`` seconds.

    For worker classes that block in `recv`. A browser that connects in advance, or a load balancer that checks whether
    the port is open, would block such a worker until its timeout.
    """
    for listener in sockets:
        sock = getattr(listener, "sock", listener)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, max(1, int(timeout)))


def _delayed(listener: Any, method: str, count: RequestCount) -> Any:
    def accept(self: Any) -> Any:
        if count.is_suspect:
            _sleep(DELAY)
        return getattr(super(delayed, self), method)()

    delayed = type("DelayedSocket", (type(listener),), {method: accept})
    socket_timeout = listener.gettimeout()
    replacement = delayed(listener.family, listener.type, listener.proto, fileno=listener.detach())
    replacement.settimeout(socket_timeout)
    return replacement
