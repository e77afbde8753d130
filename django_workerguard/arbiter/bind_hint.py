"""Hint for an address at which no socket can listen. Runs in the arbiter."""

from __future__ import annotations

import errno
import os
import socket


def bind_hint(error: OSError, path: str) -> str | None:
    """Return the hint for an error of a bind; None for one that is rare. ``path``: of a unix socket, "" otherwise."""
    directory = os.path.dirname(path) or "."
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "The host must be a name or an address of this machine."
    match error.errno:
        case errno.EADDRINUSE:
            return "Another server may be listening there."
        case errno.ENOENT | errno.ENOTDIR if path:
            return f"Create the directory {directory}, or choose another path."
        case errno.EPERM if error.filename:  # of unlink or chown: bind names no file
            return (
                "The socket's file cannot be removed, or cannot be given to the workers' user: choose another path, or "
                "start the server as the workers' user."
            )
        case errno.EACCES | errno.EPERM | errno.EROFS if path:
            return f"Let the server's user write to the directory {directory}, or choose another path."
        case errno.EACCES:
            return "Choose a port above 1023, or give the server the capability CAP_NET_BIND_SERVICE."
    return None
