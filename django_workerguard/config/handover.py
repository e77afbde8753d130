"""What crosses from the command that starts a server to the server itself. Runs in both.

It is written to an inherited file without a name: never in argv or the environment, where others could read
what may be secret. It stays open in the arbiter, so that it crosses USR2 too.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from django_workerguard.config.memfd import need_anonymous, read_all, write_all
from django_workerguard.errors import ConfigurationError

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Handover:
    """Raw, unparsed values: the server resolves them, and names in its errors where each was set.

    Every field has a default, and a reader ignores a field that it does not know: SIGUSR2 may start another release.
    """

    version: int = VERSION
    action: str = "serve"  # serve, check, print-config
    project: str = "/"  # the project's directory, by the name that it was started with
    directory: str = ""  # the working directory, by the same; "": wherever the process is
    entry: str = ""  # the project's own manage.py or command that started it; "": none
    settings_module: str = ""
    settings_named_in: str = "DJANGO_SETTINGS_MODULE in the environment"
    configured: bool = False  # the entry has called settings.configure(): there is no module to read
    sys_path: list[str] = field(default_factory=list)
    environ: dict[str, str | None] = field(default_factory=dict)  # what the entry changes; None: removes
    setting: dict[str, Any] = field(default_factory=dict)  # WORKERGUARD
    applications: dict[str, str] = field(default_factory=dict)  # WSGI_APPLICATION and ASGI_APPLICATION
    debug: bool = False  # DEBUG
    guard: dict[str, str] = field(default_factory=dict)  # the guard's options from the command line
    server: dict[str, Any] = field(default_factory=dict)  # gunicorn's that the command has of its own
    passed_on: list[str] = field(default_factory=list)  # what came after --
    # device and inode by path, for the server that SIGUSR2 starts
    socket_files: dict[str, list[int]] = field(default_factory=dict)


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
    """Write a handover to a new file without a name that survives exec, and return the descriptor.

    Raises ConfigurationError if WORKERGUARD holds what cannot cross, such as a function.
    """
    data = _encoded(handover)
    fd = need_anonymous("workerguard-handover")
    write_all(fd, data)
    os.set_inheritable(fd, True)
    return fd


def rewrite(fd: int, handover: Handover) -> None:
    """Replace the handover by a newer one, for a server that SIGUSR2 may start."""
    write_all(fd, _encoded(handover))


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
    """Read a handover, of this release or another one, and leave the descriptor open."""
    return decoded(read_all(fd))


def decoded(data: bytes) -> Handover:
    """Return the handover that was written, without the fields that this release does not know."""
    known = {one.name for one in fields(Handover)}
    return Handover(**{name: value for name, value in json.loads(data).items() if name in known})
