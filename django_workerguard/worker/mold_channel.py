"""The messages between the arbiter and a mold. Runs in both.

They are JSON on a pair of sockets that keeps the bounds of each message. The arbiter sends ``{"fork": SEAT, "slot": SLOT}``,
with the descriptor for the worker's stacks, or ``{"serve": SLOT}``, by which the mold becomes the worker of a slot. The
mold answers each ``fork`` with ``{"seat": SEAT, "pid": PID}`` or ``{"seat": SEAT, "refused": WHY}``, the latter with
``"excused": true`` or ``"memory": true`` if that is so.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
from typing import Any

from django_workerguard.values import value_class

LONGEST = 4096  # bytes of a message
MOST_DESCRIPTORS = 4


@value_class
class Answer:
    """What a mold answers: the pid of the worker for a seat, or why there is none.

    ``excused``: the slot need not wait before the next try, because the mold is to blame. ``memory``: there was no memory.
    """

    seat: int
    pid: int = 0
    refused: str = ""
    excused: bool = False
    memory: bool = False


def open_pair() -> tuple[socket.socket, socket.socket]:
    """Return the arbiter's end and the mold's. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    for end in pair:
        end.settimeout(None)  # whatever socket.setdefaulttimeout says
    return pair


def send(end: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Send a message, and descriptors with it, without waiting. Raises OSError."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    end.sendmsg([json.dumps(message).encode()], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def await_message(end: socket.socket) -> None:
    """Wait until a message is there, and leave it there: the descriptors that come with it are not open yet."""
    end.recv(1, socket.MSG_PEEK)


def receive(end: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Return the next message and the descriptors that came with it, without waiting.

    The message is None if there is none or the other end is closed, and empty if it cannot be read.
    """
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(MOST_DESCRIPTORS * descriptors.itemsize)
    try:
        data, ancillary, *_ = end.recvmsg(LONGEST, space, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
    except (BlockingIOError, ConnectionResetError):
        return None, []
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(rights[: len(rights) - len(rights) % descriptors.itemsize])
    if not data:
        return None, list(descriptors)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = {}
    return message if isinstance(message, dict) else {}, list(descriptors)


def read_answer(end: socket.socket) -> Answer | None:
    """Return the next answer of a mold, without waiting; None if there is none. The mold runs the site's code: trust nothing."""
    message, descriptors = receive(end)
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
    if message is None:
        return None
    seat, pid, refused = message.get("seat"), message.get("pid"), message.get("refused")
    if not isinstance(seat, int):
        return Answer(-1)
    if isinstance(pid, int) and not isinstance(pid, bool) and pid > 1:
        return Answer(seat, pid)
    return Answer(
        seat,
        refused=str(refused or "the mold gave no reason")[:LONGEST],
        excused=message.get("excused") is True,
        memory=message.get("memory") is True,
    )
