"""Threads and sockets that a step of a load leaves open, and which of them are known to be harmless. Runs in the worker."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django_workerguard.config.django_settings import all_settings

# executors of asyncio and asgiref, which belong to ASGI and not to the step that happened to need one first
ASGI_THREADS = ("ThreadPoolExecutor-", "asyncio_")
# libraries whose threads keep a pool of connections in order: each worker has its own
POOL_LIBRARIES = ("psycopg_pool", "psycopg2", "redis", "django_redis", "pymemcache", "pymongo", "sqlalchemy")
# the usual ports of databases, caches and brokers
SERVICE_PORTS = frozenset(
    {1433, 1521, 3306, 4222, 5432, 5433, 5671, 5672, 6379, 6380, 6432, 9092, 11211, 26379, 27017}
)
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,32}://[^\s'\"]+", re.IGNORECASE)


@dataclass(frozen=True)
class OpenResources:
    """The threads and the sockets that are open at one moment, each by what identifies it."""

    threads: dict[int, threading.Thread]
    sockets: dict[str, int]  # inode -> descriptor

    @classmethod
    def now(cls) -> OpenResources:
        """Look at this process."""
        threads = {id(one): one for one in threading.enumerate() if not one.name.startswith(ASGI_THREADS)}
        return cls(threads, dict(_sockets()))

    def since(self, before: OpenResources) -> OpenResources:
        """Return what is open now and was not before."""
        return OpenResources(
            {key: one for key, one in self.threads.items() if key not in before.threads},
            {inode: fd for inode, fd in self.sockets.items() if inode not in before.sockets},
        )

    def unexpected(self) -> tuple[str, ...]:
        """Name what is not known to be harmless."""
        threads = (f"thread:{one.name}" for one in self.threads.values() if not _is_pool_thread(one))
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
    """Say whether a library that keeps connections started a thread, from the code that the thread runs."""
    target: Any = getattr(thread, "_target", None)
    modules = (getattr(target, "__module__", None), type(thread).__module__)
    return any(str(module).partition(".")[0] in POOL_LIBRARIES for module in modules)


def _describe_socket(fd: int) -> str:
    """Describe a socket; "" if it is harmless: a pair inside this process, or a client's connection to a service."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as one:
        here = one.getsockname()
        if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"listener:{_address_text(here)}"
        try:
            there = one.getpeername()
        except OSError:
            return f"socket:{_address_text(here) or one.family.name}"
        if one.family == socket.AF_UNIX:
            return ""  # a pair by which an event loop wakes itself, or a service on this host
        return "" if there[1] in _service_ports() else f"socket:{_address_text(there)}"
    return ""


def _address_text(address: Any) -> str:
    if isinstance(address, tuple):
        return ":".join(str(part) for part in address[:2])
    return address.decode(errors="replace") if isinstance(address, bytes) else str(address)


def _service_ports() -> frozenset[int]:
    """Return the ports at which databases, caches and brokers are reached: the usual ones and the settings'."""
    return SERVICE_PORTS | frozenset(_ports(all_settings(), depth=0))


def _ports(value: Any, *, depth: int) -> Iterator[int]:
    """Yield each port of a URL, a pair (host, port) or a PORT anywhere in a setting."""
    if depth > 5:
        return
    match value:
        case str():
            for url in _URL.findall(value):
                with contextlib.suppress(ValueError):
                    yield urlsplit(url).port or 0
        case (str(), int(port)):
            yield port
        case dict():
            with contextlib.suppress(TypeError, ValueError):
                yield int(value.get("PORT") or 0)
            for inner in value.values():
                yield from _ports(inner, depth=depth + 1)
        case list() | tuple() | set() | frozenset():
            for inner in value:
                yield from _ports(inner, depth=depth + 1)
