"""Threads and sockets that a step of the load leaves open, except those known to be harmless. Runs in the worker."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django_workerguard.config.django_settings import all_settings
from django_workerguard.sentinel.borrowed_socket import address_text, borrowed_socket
from django_workerguard.values import value_class

# executors of asyncio and asgiref: they belong to ASGI, not to the step that used them first
ASGI_THREADS = ("ThreadPoolExecutor-", "asyncio_")
# libraries with a thread that maintains a connection pool: each worker has its own
POOL_LIBRARIES = ("psycopg_pool", "psycopg2", "redis", "django_redis", "pymemcache", "pymongo", "sqlalchemy")
TO_END = 0.1  # seconds in which a thread that is about to end is not yet one that was left
# the usual ports of databases, caches and brokers
SERVICE_PORTS = frozenset(
    {1433, 1521, 3306, 4222, 5432, 5433, 5671, 5672, 6379, 6380, 6432, 9092, 11211, 26379, 27017}
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,32}://[^\s'\"]+", re.IGNORECASE)


@value_class
class OpenResources:
    """The threads and the sockets that are open at one moment, each by its identity."""

    threads: dict[int, threading.Thread]
    sockets: dict[str, int]  # inode -> descriptor

    @classmethod
    def now(cls) -> OpenResources:
        """Return the open threads and sockets of this process."""
        threads = {
            id(thread): thread for thread in threading.enumerate() if not thread.name.startswith(ASGI_THREADS)
        }
        return cls(threads, dict(_sockets()))

    @classmethod
    def left_since(cls, before: OpenResources) -> OpenResources:
        """Return the threads and sockets that are open and were not open before. Gives a thread a moment to end."""
        deadline = time.monotonic() + TO_END
        while True:
            now = cls.now()
            left = cls(
                {key: thread for key, thread in now.threads.items() if key not in before.threads},
                {inode: fd for inode, fd in now.sockets.items() if inode not in before.sockets},
            )
            if not left.threads or time.monotonic() > deadline:
                return left
            time.sleep(0.005)

    def unexpected(self) -> tuple[str, ...]:
        """Return the names of the threads and sockets that are not known to be harmless."""
        threads = (f"thread:{thread.name}" for thread in self.threads.values() if not _is_pool_thread(thread))
        sockets = (name for fd in self.sockets.values() if (name := _describe_socket(fd)))
        return (*sorted(threads), *sorted(sockets))


def _sockets() -> Iterator[tuple[str, int]]:
    with contextlib.suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                if target.startswith("socket:"):
                    yield target, int(fd)


def _is_pool_thread(thread: threading.Thread) -> bool:
    """Return whether a thread belongs to a connection-pool library, judging by the module of the code that it runs."""
    target: Any = getattr(thread, "_target", None)
    modules = (getattr(target, "__module__", None), type(thread).__module__)
    return any(str(module).partition(".")[0] in POOL_LIBRARIES for module in modules)


def _describe_socket(fd: int) -> str:
    """Describe a socket; "" if it is harmless: a socket pair of this process, or a connection to a service."""
    with contextlib.suppress(OSError), borrowed_socket(fd) as sock:
        local = sock.getsockname()
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"listener:{address_text(local)}"
        try:
            peer = sock.getpeername()
        except OSError:
            return f"socket:{address_text(local) or _family(sock.family)}"
        if sock.family == socket.AF_UNIX:
            return ""  # the socket pair that wakes an event loop, or a service on this host
        return "" if peer[1] in _service_ports() else f"socket:{address_text(peer)}"
    return ""


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return f"family {number}"


def _service_ports() -> frozenset[int]:
    """Return the ports of databases, caches and brokers: the usual ones, and those in the settings."""
    ports = set(SERVICE_PORTS)
    with contextlib.suppress(Exception):  # the settings are the site's
        ports.update(_ports(all_settings(), depth=0))
    return frozenset(ports)


def _ports(value: Any, *, depth: int) -> Iterator[int]:
    """Yield each port in a setting, at any depth: from a URL, a pair (host, port) or a PORT.

    Types are looked up by ``type``: `isinstance` and `match` ask a lazy object for its class, and so make it evaluate
    itself.
    """
    kind = type(value)
    if depth > 5:
        return
    with contextlib.suppress(Exception):
        if issubclass(kind, str):
            for url in _URL.findall(value):
                with contextlib.suppress(ValueError):
                    yield urlsplit(url).port or 0
        elif issubclass(kind, dict):
            port = value.get("PORT")
            if type(port) in (int, str) and str(port).isdecimal():
                yield int(port)
            for inner in value.values():
                yield from _ports(inner, depth=depth + 1)
        elif issubclass(kind, list | tuple | set | frozenset):
            inners = list(value)
            if [type(inner) for inner in inners] == [str, int]:
                yield inners[1]
            for inner in inners:
                yield from _ports(inner, depth=depth + 1)
