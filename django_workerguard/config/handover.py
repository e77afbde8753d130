"""What crosses from the command that starts a server to the server itself. Runs in both.

It lies in an inherited memfd: never in argv or the environment, where others could read
what may be secret. It stays open in the arbiter, so that it crosses USR2 too.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from django_workerguard.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Handover:
    """Raw, unparsed values: the server resolves them, and names in its errors where each was set."""

    action: str = "serve"  # serve, check, print-config
    project: str = "/"  # the project's directory
    settings_module: str = ""
    sys_path: list[str] = field(default_factory=list)
    setting: dict[str, Any] = field(default_factory=dict)  # WORKERGUARD
    applications: dict[str, str] = field(default_factory=dict)  # WSGI_APPLICATION and ASGI_APPLICATION
    guard: dict[str, str] = field(default_factory=dict)  # the guard's options from the command line
    server: dict[str, Any] = field(default_factory=dict)  # gunicorn's that the command has of its own
    passed_on: list[str] = field(default_factory=list)  # what came after --


def applications_of(settings: Any) -> dict[str, str]:
    """Return what a settings module names as its applications, by interface, as ``module:callable``.

    A worker that knows the name beforehand can import the project's own module first, as
    other servers do: it may set the environment that the settings read.
    """
    named = {}
    for interface in ("wsgi", "asgi"):
        dotted = getattr(settings, f"{interface.upper()}_APPLICATION", None)
        if isinstance(dotted, str) and "." in dotted:
            named[interface] = ":".join(dotted.rsplit(".", 1))
    return named


def write(handover: Handover) -> int:
    """Write a handover to a new memfd that survives exec, and return the descriptor.

    Raises ConfigurationError where WORKERGUARD holds what cannot cross, such as a function.
    """
    data = _encoded(handover)
    fd = os.memfd_create("workerguard-handover", 0)
    os.write(fd, data)
    return fd


def rewrite(fd: int, handover: Handover) -> None:
    """Put a newer handover into the memfd, for a server that SIGUSR2 may start."""
    data = _encoded(handover)
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)


def _encoded(handover: Handover) -> bytes:
    try:
        return json.dumps(asdict(handover), default=plain).encode()
    except TypeError as error:
        raise ConfigurationError(
            f"WORKERGUARD holds a value that cannot be handed to the server: {error}",
            hint="Server hooks and other objects belong into gunicorn.conf.py.",
        ) from None


def plain(value: Any) -> Any:
    """Turn a path or a set into what JSON has. Raises TypeError for anything else."""
    if hasattr(value, "__fspath__"):
        return os.fspath(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


def read(fd: int) -> Handover:
    """Read a handover, and leave the descriptor open."""
    size = os.fstat(fd).st_size
    return Handover(**json.loads(os.pread(fd, size, 0)))
