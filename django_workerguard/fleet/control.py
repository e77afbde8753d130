"""How others reach the arbiter without a thread: a pipe that rings, a socket that asks. Runs in the arbiter.

Requests are datagrams of JSON, ``{"do": "reload"}``; each is answered
``{"accepted": true}`` or ``{"accepted": false, "reason": …}``. The kernel says who asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_workerguard.scoreboard.asking import LONGEST

CREDENTIALS = struct.Struct("3i")
LONGEST_NAME = 150  # characters
LONGEST_PATH = 107  # of a unix socket


@dataclass(frozen=True)
class Request:
    """What somebody asks for, and who."""

    do: str
    arguments: dict[str, Any]
    pid: int
    uid: int
    address: Any = field(repr=False, default=None)
    refused: str | None = None  # why it need not be looked at

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
        """Say who asked, for the log and the journal."""
        process = f"pid {self.pid}, user {self.uid}"
        return f"{self.user} on the dashboard ({process})" if self.user else process


class WakePipe:
    """A pipe whose bytes raise SIGIO in the arbiter: children that may not signal it can ring it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ring_on(self.read_fd)

    def drain(self) -> None:
        with contextlib.suppress(OSError):
            while len(os.read(self.read_fd, LONGEST)) == LONGEST:
                pass


def ring_on(fd: int) -> None:
    """Have the kernel raise SIGIO in this process when a descriptor becomes readable."""
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)


class ControlSocket:
    """The datagram socket in the run directory."""

    def __init__(self, path: Path, *, owner: int, allowed_uids: frozenset[int], ring: bool = True) -> None:
        """Raise OSError where the socket cannot be made. Without ``ring`` its owner looks by itself."""
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise OSError(36, f"the path is longer than {LONGEST_PATH} bytes")
        self.path = path
        self._allowed = allowed_uids
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        before = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(before)
        if os.geteuid() == 0:
            os.chown(path, owner, -1)  # root may use it whoever owns it
        self._socket.setblocking(False)
        if ring:
            ring_on(self._socket.fileno())

    def fileno(self) -> int:
        return self._socket.fileno()

    def surrender(self) -> int:
        """Give the descriptor up, in a child: it must not be closed again when its number is another's."""
        return self._socket.detach()

    def requests(self) -> list[Request]:
        """Return the requests that wait; those that are not allowed or not understood come refused."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, address = self._socket.recvmsg(
                    LONGEST, socket.CMSG_SPACE(CREDENTIALS.size)
                )
                pid, uid = _credentials(ancillary)
                do, arguments = _parsed(data)
                refused = None if do else "not a request"
                if uid not in self._allowed:
                    refused = f"user {uid} may not control this server"
                found.append(Request(do, arguments, pid, uid, address, refused))
        return found

    def answer(self, request: Request, refused: str | None) -> None:
        if refused is None:
            self._answer(request.address, accepted=True)
        else:
            self._answer(request.address, accepted=False, reason=refused)

    def _answer(self, address: Any, **content: Any) -> None:
        with contextlib.suppress(OSError, TypeError):  # the asker may be gone
            self._socket.sendto(json.dumps(content).encode(), socket.MSG_DONTWAIT, address)

    def close(self) -> None:
        self._socket.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


def _parsed(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return what is asked for, and its arguments; "" where that is not understood."""
    try:
        asked = json.loads(data)
        return str(asked.pop("do")), asked
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return "", {}


def _credentials(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, uid, _ = CREDENTIALS.unpack(data[: CREDENTIALS.size])
            return pid, uid
    return 0, -1
