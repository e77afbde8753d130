"""Make a worker under suspicion wait before it accepts. Runs in the worker.

A worker whose requests all fail is done with each at once, and wins the race to accept:
two such of eight took 36 to 72 % of the requests. A few milliseconds before `accept`
leave the connection to a healthy worker; where all are suspect, each still answers some
two hundred requests a second.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from django_workerguard.scoreboard.snapshot import is_suspect
from django_workerguard.server.counting import RequestCount

WAIT = 0.005  # seconds
_sleep = time.sleep  # gevent replaces time.sleep by one that cannot be used in its hub


def patient_listeners(sockets: list[Any], count: RequestCount) -> None:
    """Replace the listeners of a worker, in place, by such that wait while it is suspect."""

    def wait() -> None:
        if is_suspect(count.streak):
            _sleep(WAIT)

    for index, listener in enumerate(sockets):
        inner = getattr(listener, "sock", None)
        if isinstance(inner, socket.socket):
            listener.sock = _patient(socket.socket, "accept", inner, wait)
        elif hasattr(listener, "_accept"):  # gevent's own, which its server calls by another name
            sockets[index] = _patient(type(listener), "_accept", listener, wait)


def _patient(cls: type[Any], method: str, listener: Any, wait: Callable[[], None]) -> Any:
    def accept(self: Any) -> Any:
        wait()
        return getattr(super(patient, self), method)()

    patient = type("PatientSocket", (cls,), {method: accept, "__slots__": ()})
    timeout = listener.gettimeout()
    replacement = patient(listener.family, listener.type, listener.proto, fileno=listener.detach())
    replacement.settimeout(timeout)
    return replacement
