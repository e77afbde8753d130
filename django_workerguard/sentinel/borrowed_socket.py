"""Look at a socket that belongs to other code. Runs in the worker and the mold."""

from __future__ import annotations

import _socket  # not `socket`: gevent replaces its class by one that changes the descriptor's flags
import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def borrowed_socket(number: int) -> Iterator[_socket.socket]:
    """Give a socket object for a descriptor, which stays open and as it was. Raises OSError if it is no socket."""
    blocking = os.get_blocking(number)
    sock = _socket.socket(fileno=number)
    try:
        if blocking != os.get_blocking(number):  # socket.setdefaulttimeout has changed it
            os.set_blocking(number, blocking)
        yield sock
    finally:
        sock.detach()


def address_text(address: Any) -> str:
    """Return a socket's address for people: host and port, or a path."""
    if isinstance(address, tuple):
        return ":".join(str(part) for part in address[:2])
    return address.decode(errors="replace") if isinstance(address, bytes) else str(address)
