"""When a worker accepts: later under suspicion, and no client that has sent nothing. Runs in the worker.

A worker whose requests all fail is done with each at once, and wins the race to accept:
two such of eight took 36 to 72 % of the requests. A few milliseconds before `accept`
leave the connection to a healthy worker; where all are suspect, each still answers some
two hundred requests a second.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

from django_workerguard.server.workers.request_counter import RequestCount

WAIT = 0.005  # seconds
_sleep = time.sleep  # gevent replaces time.sleep by one that cannot be used in its hub


def delay_accept_while_suspect(sockets: list[Any], count: RequestCount) -> None:
    """Replace the sockets in a worker's listeners by such that wait while it is suspect."""
    for listener in sockets:
        if hasattr(listener, "sock"):  # gunicorn's wrapper
            listener.sock = _delayed(listener.sock, "accept", count)
        else:  # gevent's, whose server accepts on what lies inside
            listener._sock = _delayed(listener._sock, "_accept", count)


def defer_accept(sockets: list[Any], timeout: float) -> None:
    """Have the kernel keep a TCP connection until its client has sent something, at most ``timeout`` seconds.

    For worker classes that wait in `recv` for a request. A browser that connects ahead, or a load balancer
    that looks whether the port is open, would hold such a worker until its time-out.
    """
    for listener in sockets:
        sock = getattr(listener, "sock", listener)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, max(1, int(timeout)))


def _delayed(listener: Any, method: str, count: RequestCount) -> Any:
    def accept(self: Any) -> Any:
        if count.is_suspect:
            _sleep(WAIT)
        return getattr(super(delayed, self), method)()

    delayed = type("DelayedSocket", (type(listener),), {method: accept})
    socket_timeout = listener.gettimeout()
    replacement = delayed(listener.family, listener.type, listener.proto, fileno=listener.detach())
    replacement.settimeout(socket_timeout)
    return replacement
