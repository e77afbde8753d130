"""The control socket, and the pipe by which workers wake the arbiter. Both work without a thread. Runs in the arbiter.

Requests are datagrams of JSON, ``{"do": "reload"}``; each is answered
``{"accepted": true}`` or ``{"accepted": false, "reason": …}``: on the socket that came with the request, or else at
the address of its sender. The kernel reports the process and the user that asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from array import array
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Any

from django_workerguard.config.unix_path import bindable
from django_workerguard.scoreboard.control_client import MAX_MESSAGE
from django_workerguard.values import value_class

CREDENTIALS = struct.Struct("3i")
DESCRIPTOR = struct.Struct("i")
LONGEST_NAME = 150  # characters
MOST_AT_ONCE = 64  # requests in one round, so that a flood of them does not hold up the rest of it


@value_class
class Request:
    """A request on the control socket, and the process and user that sent it."""

    do: str
    arguments: dict[str, Any]
    pid: int
    uid: int
    # where its answer goes: an address, or the socket that came with it, which is closed then
    address: Any = field(repr=False, default=None)
    answers: socket.socket | None = field(repr=False, default=None)
    refused: str | None = None  # why it is refused, if it is
    # what goes with the answer
    more: dict[str, Any] = field(default_factory=dict)
    descriptors: list[int] = field(default_factory=list)  # closed when they are sent

    @property
    def user(self) -> str:
        """The name that the dashboard gives of its user; "" for requests from elsewhere."""
        name = self.arguments.get("user")
        return (
            "".join(char for char in name[:LONGEST_NAME] if char.isprintable())
            if isinstance(name, str)
            else ""
        )

    @property
    def who(self) -> str:
        """Return the sender, for the log and the journal."""
        process = f"pid {self.pid}, user {self.uid}"
        return f"{self.user} on the dashboard ({process})" if self.user else process


class WakePipe:
    """A pipe whose bytes raise SIGIO in the arbiter, for children that are not allowed to send it signals."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ring_on(self.read_fd)

    def drain(self) -> None:
        with contextlib.suppress(OSError):
            while len(os.read(self.read_fd, MAX_MESSAGE)) == MAX_MESSAGE:
                pass


def ring_on(fd: int) -> None:
    """Have the kernel raise SIGIO in this process when a descriptor becomes readable."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)


class ControlSocket:
    """The datagram socket in the run directory."""

    def __init__(self, path: Path, *, owner: int, allowed_uids: frozenset[int], ring: bool = True) -> None:
        """Raise OSError where the socket cannot be made. Without ``ring`` the owner polls it."""
        self.path = path
        self._owner = owner
        self._allowed = allowed_uids
        self._ring = ring
        self._socket = self._bound()

    def _bound(self) -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._make_file(bound)
        except OSError:
            bound.close()
            raise
        bound.setblocking(False)
        if self._ring:
            ring_on(bound.fileno())
        return bound

    def _make_file(self, bound: socket.socket) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        before = os.umask(0o177)
        try:
            with bindable(self.path) as short:
                bound.bind(short)
        finally:
            os.umask(before)
        if os.geteuid() == 0:
            # Root can use the socket although another user owns it. That user may have put a link in its place.
            os.chown(self.path, self._owner, -1, follow_symlinks=False)
        self._file = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.lstat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def is_there(self) -> bool:
        """Say whether the socket can still be reached at its path."""
        return self._identity() == self._file is not None

    def make_again(self) -> None:
        """Bind a new socket at the path, because the file of this one is gone. Raises OSError."""
        old, self._socket = self._socket, self._bound()
        old.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def surrender(self) -> int:
        """Give the descriptor up, in a child: it must not be closed again when its number is another's."""
        return self._socket.detach()

    def requests(self) -> Iterator[Request]:
        """Yield the requests that wait, at most MOST_AT_ONCE; what is not allowed or not understood is refused."""
        for _ in range(MOST_AT_ONCE):
            try:
                data, ancillary, _, address = self._socket.recvmsg(
                    MAX_MESSAGE,
                    socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(DESCRIPTOR.size),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except BlockingIOError:
                return
            pid, uid = _credentials(ancillary)
            answers = _socket_for_answers(ancillary)
            do, arguments = _parsed(data)
            refused = None if do else "not a request"
            if uid not in self._allowed:
                refused = f"user {uid} may not control this server"
            yield Request(do, arguments, pid, uid, address, answers, refused)

    def answer(self, request: Request, refused: str | None) -> None:
        """Answer a request, and close what came with it and what goes with the answer."""
        try:
            with contextlib.suppress(OSError, TypeError):  # the sender may have ended
                self._send(request, refused)
        finally:
            for fd in request.descriptors:
                with contextlib.suppress(OSError):
                    os.close(fd)
            if request.answers is not None:
                request.answers.close()

    def _send(self, request: Request, refused: str | None) -> None:
        content = (
            {"accepted": True, **request.more} if refused is None else {"accepted": False, "reason": refused}
        )
        # not `socket.send_fds`, which ignores the address on some versions of Python
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", request.descriptors))
        ancillary = [rights] if request.descriptors and refused is None else []
        data = [json.dumps(content).encode()]
        if request.answers is not None:
            request.answers.sendmsg(data, ancillary, socket.MSG_DONTWAIT)
        else:
            self._socket.sendmsg(data, ancillary, socket.MSG_DONTWAIT, request.address)

    def close(self) -> None:
        """Close the socket, and remove its file unless that is another server's by now."""
        self._socket.close()
        with contextlib.suppress(OSError):
            if self.is_there:
                self.path.unlink()


def open_beside(board: Path | None, *, owner: int, log: Any, ring: bool = True) -> ControlSocket | None:
    """Open the control socket beside a board's file, for root, this process's user and the owner.

    Return None if the board has no file, and, with a warning, if the socket cannot be opened.
    """
    if board is None:
        return None
    allowed = frozenset({0, os.geteuid(), owner})
    try:
        return ControlSocket(board.with_suffix(".sock"), owner=owner, allowed_uids=allowed, ring=ring)
    except OSError as error:
        text = "no control socket, so that workerguard reload, recycle and scale do not work: %s"
        log.warning(text, error.strerror)
        return None


def _parsed(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the name of a request and its arguments; "" if it is not understood."""
    try:
        request = json.loads(data)
        return str(request.pop("do")), request
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return "", {}


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, uid, _ = CREDENTIALS.unpack(data[: CREDENTIALS.size])
            return pid, uid
    return 0, -1


def _socket_for_answers(ancillary: list[tuple[int, int, bytes]]) -> socket.socket | None:
    """Return the socket that came with a request, and close what else came with it."""
    received = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    sockets = []
    for fd in received:
        try:
            sockets.append(socket.socket(fileno=fd))
        except OSError:  # it is no socket
            os.close(fd)
    for more in sockets[1:]:
        more.close()
    return sockets[0] if sockets else None
