"""The open descriptors of this process, and which of them workers must not share. Runs in the mold.

No hazard, although workers share it: a datagram socket, because a datagram is whole; a socket or pipe that both sides
have shut; a file that is open for reading or appending; anonymous shared memory of multiprocessing; the lock file of
concurrent-log-handler, which opens it again in a forked process; a memfd that is sealed.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import select
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import Any

from django_workerguard.sentinel.borrowed_socket import address_text, borrowed_socket
from django_workerguard.sentinel.hazard import Hazard, HazardKind
from django_workerguard.values import value_class

EVENT = re.compile(r"anon_inode:\[?(?P<name>eventpoll|eventfd|timerfd|signalfd|inotify|fanotify|io_uring)\b")
LOCK_FILE = re.compile(r"\.__.*\.lock")  # of concurrent-log-handler
SHARED_MEMORY = re.compile(r"(/dev/shm/.*|.*/pym-[^/]*) \(deleted\)")
MEMFD = "/memfd:"
F_GET_SEALS, F_SEAL_WRITE = 1034, 0x8


@value_class
class Descriptor:
    """An open descriptor: its number, and where its link in /proc leads."""

    number: int
    target: str

    @property
    def is_epoll(self) -> bool:
        return self.target == "anon_inode:[eventpoll]"

    @property
    def is_event(self) -> bool:
        return EVENT.match(self.target) is not None


def open_descriptors() -> frozenset[Descriptor]:
    """Return the open descriptors of this process."""
    return frozenset(_open_descriptors())


def _open_descriptors() -> Iterator[Descriptor]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield Descriptor(int(name), os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the one that lists the directory
            continue


def described_descriptors(
    descriptors: Iterable[Descriptor], *, restarting_libraries: bool
) -> Iterator[Hazard]:
    """Yield a hazard for each descriptor that workers must not share.

    ``restarting_libraries``: there is a library that stops its threads around a fork, and event descriptors and memfds
    belong to it.
    """
    for descriptor in sorted(descriptors, key=lambda descriptor: descriptor.number):
        number, target = descriptor.number, descriptor.target
        try:
            if event := EVENT.match(target):
                if not restarting_libraries:
                    text = f"descriptor {number}: {event['name'].replace('eventpoll', 'epoll')}"
                    yield Hazard(HazardKind.EVENT_DESCRIPTOR, text)
            elif target.startswith("socket:"):
                if text := _socket_text(number):
                    yield Hazard(HazardKind.SOCKET, text)
            elif target.startswith("pipe:"):
                if not _is_shut(number):
                    yield Hazard(HazardKind.PIPE, f"descriptor {number}: {_end(number)} end of {target}")
            elif target.startswith("/") and _is_written(descriptor, restarting_libraries):
                yield Hazard(HazardKind.OPEN_FILE, f"{target}, open for writing and not for appending")
        except OSError as error:
            if _is_still_open(descriptor):
                yield Hazard(HazardKind.NOT_EXAMINED, f"descriptor {number} ({target}): {error}")


def _is_still_open(descriptor: Descriptor) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor.number}") == descriptor.target
    except OSError:
        return False


def _is_written(descriptor: Descriptor, restarting_libraries: bool) -> bool:  # noqa: FBT001
    number, target = descriptor.number, descriptor.target
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    if flags & os.O_ACCMODE == os.O_RDONLY or flags & (os.O_APPEND | os.O_PATH):
        return False
    if not stat.S_ISREG(os.fstat(number).st_mode) or SHARED_MEMORY.fullmatch(target):
        return False
    if target.startswith(MEMFD):
        return not restarting_libraries and not fcntl.fcntl(number, F_GET_SEALS) & F_SEAL_WRITE
    return LOCK_FILE.fullmatch(os.path.basename(target)) is None


def _end(number: int) -> str:
    return "reading" if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY else "writing"


class _PollDescriptor(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def _is_shut(number: int) -> bool:
    """Return whether nothing can pass through a socket or pipe any more, in either direction."""
    entry = _PollDescriptor(number, 0, 0)
    _c().poll(ctypes.byref(entry), 1, 0)  # not `select.poll`, which gevent replaces
    return bool(entry.revents & (POLLHUP | POLLERR))


POLLERR, POLLHUP = select.POLLERR, select.POLLHUP


@functools.cache
def _c() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _socket_text(number: int) -> str:
    """Describe a socket that workers must not share; "" if they may."""
    with borrowed_socket(number) as sock:
        if sock.type == socket.SOCK_DGRAM:
            return ""
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"descriptor {number}: listens on {address_text(sock.getsockname())}"
        if _is_shut(number):
            return ""
        return f"descriptor {number}: {_ends(sock)}"


def _ends(sock: Any) -> str:
    local = address_text(sock.getsockname())
    try:
        peer = address_text(sock.getpeername())
    except OSError:
        return f"socket of family {sock.family}, {local}"
    if sock.family == socket.AF_UNIX and not local and not peer:
        return "one end of a pair of Unix sockets"
    return f"connected to {peer}" if peer else f"connection accepted at {local}"
