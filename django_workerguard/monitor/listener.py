"""The monitor's listening socket. The arbiter opens it, and keeps it while the monitor is replaced. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from django_workerguard.config.monitor_address import MonitorAddress

BACKLOG = 64  # connections
File = tuple[int, int]  # device and inode


class Listener:
    """A listening socket, its address, and the file that it has made if it is a unix socket."""

    def __init__(self, address: MonitorAddress, sock: socket.socket, file: File | None) -> None:
        self.address = address
        self.socket = sock
        self.file = file

    @classmethod
    def open(cls, address: MonitorAddress, *, uid: int, gid: int) -> Listener:
        """Bind and listen. ``uid`` and ``gid``: the owner of a unix socket's file, if root makes it. Raises OSError."""
        if address.path:
            _make_room(address.path)
        sock = socket.socket(socket.AF_UNIX if address.path else address.family, socket.SOCK_STREAM)
        try:
            file = None
            if address.path:
                file = _bind_path(sock, address.path, uid, gid)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address.host, address.port))
            sock.setblocking(False)
            sock.listen(BACKLOG)
        except OSError:
            sock.close()
            raise
        return cls(address, sock, file)

    def __str__(self) -> str:
        if self.address.path:
            return f"unix:{self.address.path}"
        host, port, *_ = self.socket.getsockname()
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def close(self) -> None:
        """Close the socket, and remove its file unless that is another program's by now."""
        self.socket.close()
        remove_file(self.address.path, self.file)


def remove_file(path: str, file: File | None) -> None:
    """Remove a unix socket's file if it is still this one."""
    if path and file is not None and _identity(path) == file:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _bind_path(sock: socket.socket, path: str, uid: int, gid: int) -> File | None:
    before = os.umask(0o117)  # for the owner and the group
    try:
        sock.bind(path)
    finally:
        os.umask(before)
    if os.geteuid() == 0:
        os.chown(path, uid, gid, follow_symlinks=False)
    return _identity(path)


def _make_room(path: str) -> None:
    """Remove a unix socket at which no process listens any more. Raises OSError for anything else at the path."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _identity(path: str) -> File | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None
