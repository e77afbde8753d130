"""How long requests wait before a worker takes them up, and which have waited too long. Runs in the worker.

A request waits in the listening socket's queue, for a thread, or for a busy event loop. The kernel knows since when: the
latest data of its connection is the request (TCP_INFO; not for unix sockets). A trusted proxy may know better, and
say so in the header X-Request-Start.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from ipaddress import ip_address
from struct import Struct
from typing import Any

from django_workerguard.report.health import Answer, respond
from django_workerguard.server.workers.request_counter import RequestCount

# the first byte of struct tcp_info, and tcpi_last_data_recv, in milliseconds
_tcp_info = Struct("=B51xI")
TCP_CLOSE = 7  # a state: the connection was reset
UNKNOWN = -1  # in place of the nanoseconds that a request has waited
RESET = -2
LONGEST = 3600.0  # seconds; a header that gives more is not believed
# the largest Unix time in seconds, milliseconds and microseconds, and how many of them are a second
SCALES = ((1e11, 1), (1e14, 1e3), (1e17, 1e6))
CLOSED_REQUEST = 499  # the status, in the access log, of a request whose client has gone


class Queue:
    """Measures and counts how long requests have waited, and answers those that have waited too long.

    ``timeout``: in seconds, 0: none. ``cfg``: gunicorn's configuration, which says which proxies are trusted.
    ``listeners``: the worker's. If all of them are unix sockets, the kernel is not asked, because it would not know.
    """

    def __init__(self, count: RequestCount, timeout: float, cfg: Any, listeners: Iterable[Any]) -> None:
        self._count = count
        self._asks_kernel = any(listener.family != socket.AF_UNIX for listener in listeners)
        self._timeout = int(timeout * 1e9)
        self._trusts_all = "*" in cfg.forwarded_allow_ips
        self._trusted = [] if self._trusts_all else cfg.forwarded_allow_networks()

    def refusal(self, sock: Any, stated: str | None, *, lost: bool = False) -> Answer | None:
        """Count how long a request has waited, and return the answer if the application shall not see it.

        ``sock``: of its connection, if it is known. ``stated``: the header X-Request-Start. ``lost``: the server already
        knows that the connection has ended.
        """
        waited = RESET if lost else waited_in_kernel(sock) if self._asks_kernel else UNKNOWN
        if stated and waited != RESET:
            by_header = waited_by_header(stated, time.time())
            if by_header != UNKNOWN and self._trusts(sock):
                waited = by_header
        if waited >= 0:
            self._count.waited(waited)
            if waited > self._timeout > 0:
                self._count.shed()
                return respond(503, "The server is busy. Please try again.\n", "text/plain; charset=utf-8")
        elif waited == RESET:
            self._count.gone()
            return respond(CLOSED_REQUEST, "", "text/plain; charset=utf-8")
        return None

    def _trusts(self, sock: Any) -> bool:
        """Whether the peer is a proxy that gunicorn trusts, too: one on a unix socket, or in forwarded_allow_ips."""
        if self._trusts_all:
            return True
        try:
            peer = sock.getpeername()
            if not isinstance(peer, tuple):
                return True
            address = ip_address(peer[0])
        except (AttributeError, OSError, ValueError):
            return False
        return any(address in network for network in self._trusted)


def waited_in_kernel(sock: Any) -> int:
    """Return for how many nanoseconds the latest data of a connection has been there, in steps of a millisecond."""
    try:
        state, milliseconds = _tcp_info.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _tcp_info.size)
        )
    except (AttributeError, OSError):  # no socket is known, or it is a unix socket
        return UNKNOWN
    return RESET if state == TCP_CLOSE else milliseconds * 1_000_000


def waited_by_header(stated: str, now: float) -> int:
    """Return the nanoseconds since the time in X-Request-Start; UNKNOWN if it is not plausible. Pure.

    ``stated``: a Unix time in seconds, milliseconds or microseconds, possibly after ``t=``. ``now``: Unix time.
    """
    try:
        number = float(stated.strip().removeprefix("t="))
    except ValueError:
        return UNKNOWN
    scale = next((scale for largest, scale in SCALES if 0 < number < largest), None)
    waited = now - number / scale if scale else -1.0
    return int(waited * 1e9) if 0 <= waited <= LONGEST else UNKNOWN


def transport_of(receive: Any) -> Any:
    """Return the transport of the connection that an ASGI server's ``receive`` belongs to; None if it cannot be known.

    The servers make ``receive`` a method: in uvicorn of an object that has the transport, in gunicorn of one that has the
    protocol. With HTTP/2 it belongs to a stream, which has neither.
    """
    owner = getattr(receive, "__self__", None)
    return getattr(owner, "transport", None) or getattr(getattr(owner, "protocol", None), "transport", None)


def stated_start(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the header X-Request-Start of an ASGI request."""
    for name, value in headers:
        if name == b"x-request-start":
            return str(value, "latin-1")
    return None
