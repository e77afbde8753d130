"""Client of a server's control socket. Runs in commands and in the dashboard."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
from pathlib import Path
from typing import Any

from django_workerguard.config.unix_path import bindable

MAX_MESSAGE = 4096  # bytes of a request or a response


def ask(path: Path, do: str, *, timeout: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Send one request to a server and return its response. Raises OSError, as `ask_for_file` does."""
    response, fd = ask_for_file(path, do, timeout=timeout, **arguments)
    if fd >= 0:
        os.close(fd)
    return response


def ask_for_file(
    path: Path, do: str, *, timeout: float = 5.0, **arguments: Any
) -> tuple[dict[str, Any], int]:
    """Send one request to a server, and return its response and the descriptor that came with it; -1 if none did.

    Raises OSError if no server listens, if permission is denied, or if there is no response within ``timeout`` seconds.
    """
    # A socket for the answer goes with the request: a server in another network namespace cannot reach the address of
    # this one. A server that runs an older version of the package answers at the address.
    answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with answers, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as client:
        client.bind("")  # the kernel chooses the address
        client.settimeout(timeout)
        with bindable(path) as short:
            client.connect(short)
        socket.send_fds(client, [json.dumps({"do": do, **arguments}).encode()], [theirs.fileno()])
        poll = select.poll()
        for end in (answers, client):
            poll.register(end, select.POLLIN)
        answered = dict(poll.poll(timeout * 1000))
        if not answered:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        end = answers if answers.fileno() in answered else client
        data, descriptors, _, _ = socket.recv_fds(end, MAX_MESSAGE, 1)
        response: dict[str, Any] = json.loads(data)
        return response, descriptors[0] if descriptors else -1
