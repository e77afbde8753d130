"""A queue that children share without a lock, so that a killed one stops no other. Runs in Celery's main process and its children.

billiard's own is a pipe with a lock at each end: a child that is killed while it holds one, or in the middle of a message,
stops all others for ever. Here the kernel keeps messages apart: each one is sent and received whole, or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from typing import Any

from billiard.reduction import ForkingPickler

from django_workerguard.config.memfd import open_anonymous, read_all, write_all

LONGEST = (
    64 * 1024
)  # bytes of a packet; a longer message goes through a file in memory, whose descriptor is sent
DESCRIPTOR = 4  # bytes of a descriptor's number that comes with a packet
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
PAUSE = 0.05  # seconds
INLINE, IN_A_FILE = b"\0", b"\1"  # first byte of a packet


class Receiver:
    """The end from which messages are read, by any number of processes.

    It keeps a descriptor in reserve: without a free one the kernel drops the one that comes with a long message.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reserve: list[int] = []
        self._keep_reserve()
        self.fileno = end.fileno

    def close(self) -> None:
        self._free_reserve()
        self._end.close()

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether a message, or the end, is there within a time in seconds; None waits without end."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def recv_bytes(self, flags: int = 0) -> bytes:
        """Return the next message. Raises EOFError when every sender has closed its end, and OSError."""
        if self._end.recv(1, flags | socket.MSG_PEEK) != IN_A_FILE:
            return self._received(flags)
        self._free_reserve()
        try:
            return self._received(flags)
        finally:
            self._keep_reserve()

    def _received(self, flags: int) -> bytes:
        # not socket.recv_fds, which ignores the flags
        packet, ancillary, *_ = self._end.recvmsg(
            1 + LONGEST, socket.CMSG_SPACE(DESCRIPTOR), flags | socket.MSG_CMSG_CLOEXEC
        )
        descriptors = [int.from_bytes(rights[:DESCRIPTOR], sys.byteorder) for _, _, rights in ancillary]
        try:
            if not packet:
                raise EOFError
            if packet[:1] == INLINE:
                return packet[1:]
            if not descriptors:
                raise OSError(errno.EMFILE, "no descriptor was free for a message, and it is lost")
            return read_all(descriptors[0])
        finally:
            for fd in descriptors:
                os.close(fd)

    def _free_reserve(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def _keep_reserve(self) -> None:
        with contextlib.suppress(OSError):
            self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def recv_bytes_at_once(self) -> bytes | None:
        """Return the next message, or None if there is none: another process was quicker. Raises as `recv_bytes`."""
        try:
            return self.recv_bytes(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def recv(self) -> Any:
        return ForkingPickler.loads(self.recv_bytes())


class Sender:
    """The end to which messages are written, by any number of processes."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self.fileno = end.fileno
        self.close = end.close

    def send_bytes(self, message: bytes) -> None:
        """Send a message; wait while the other end has no room, or this host no descriptor. Raises OSError."""
        if len(message) <= LONGEST:
            try:
                self._end.send(INLINE + message)
            except OSError as error:
                if error.errno != errno.EMSGSIZE:  # a host with smaller socket buffers
                    raise
            else:
                return None
        while True:
            try:
                return self._send_file(message)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
            time.sleep(PAUSE)

    def _send_file(self, message: bytes) -> None:
        fd = open_anonymous("workerguard-message")
        try:
            write_all(fd, message)
            socket.send_fds(self._end, [IN_A_FILE], [fd])
        finally:
            os.close(fd)

    def send(self, value: Any) -> None:
        self.send_bytes(bytes(ForkingPickler.dumps(value)))


class PacketQueue:
    """What billiard's pool and its children use of ``SimpleQueue``."""

    def __init__(self) -> None:
        reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader, self._writer = Receiver(reader), Sender(writer)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def empty(self) -> bool:
        return not self._reader.poll()

    def get_payload(self) -> bytes:
        return self._reader.recv_bytes()

    def get(self) -> Any:
        return self._reader.recv()

    def put(self, value: Any) -> None:
        self._writer.send(value)
