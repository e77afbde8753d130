"""Ask something of a running server, over the socket beside its scoreboard. Runs in commands and in the dashboard."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

LONGEST = 4096  # bytes of a request, and of an answer


def ask(path: Path, do: str, *, timeout: float = 5.0, **arguments: Any) -> dict[str, Any]:
    """Send one request to a server and return its answer.

    Raises OSError: nobody listens, no right, no answer within ``timeout`` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        asker.bind("")  # an address of the kernel's choice, so that the answer finds us
        asker.settimeout(timeout)
        asker.connect(str(path))
        asker.send(json.dumps({"do": do, **arguments}).encode())
        answer: dict[str, Any] = json.loads(asker.recv(LONGEST))
        return answer
