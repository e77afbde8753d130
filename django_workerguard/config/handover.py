"""Handover of the configuration from the starting command to the server. Runs in both.

It is written to an inherited anonymous file, because other users could read secrets in argv or in the environment.
The file stays open in the arbiter, for the server that SIGUSR2 starts.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import field
from typing import Any

from django_workerguard.config.arbiter_signals import FOR_ARBITER
from django_workerguard.config.memfd import need_written, read_all, write_all
from django_workerguard.errors import ConfigurationError
from django_workerguard.values import from_known, value_class

VERSION = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
EARLY_SIGNALS = (signal.SIGUSR1, *FOR_ARBITER)  # while the server starts, they change nothing
HELD_SIGNALS = (*STOP_SIGNALS, *EARLY_SIGNALS)  # blocked during the exec, until the server takes them


@value_class(kw_only=True)
class Handover:
    """Raw, unparsed values. The server resolves them, and its errors name the place where each was set.

    Every field has a default, and a reader ignores a field that it does not know: SIGUSR2 may start another release.
    """

    version: int = VERSION
    action: str = "serve"  # serve, check, print-config
    project: str = "/"  # the project's directory, by the path with which the server was started
    directory: str = ""  # the working directory, by the path of the start; "": that of the process
    entry: str = ""  # the project's manage.py or command that started the server; "": none
    entry_arguments: list[str] = field(default_factory=lambda: ["serve_guarded"])  # its own, and the command
    settings_module: str = ""
    settings_named_in: str = "DJANGO_SETTINGS_MODULE in the environment"
    configured: bool = False  # the entry has called settings.configure(): there is no settings module
    sys_path: list[str] = field(default_factory=list)
    environ: dict[str, str | None] = field(default_factory=dict)  # changes of the entry; None: removed
    setting: dict[str, Any] = field(default_factory=dict)  # WORKERGUARD
    applications: dict[str, str] = field(default_factory=dict)  # WSGI_APPLICATION and ASGI_APPLICATION
    debug: bool = False  # DEBUG
    guard: dict[str, str] = field(default_factory=dict)  # the guard's options from the command line
    server: dict[str, Any] = field(default_factory=dict)  # gunicorn's options that the command has, too
    passed_on: list[str] = field(default_factory=list)  # the arguments after --
    # a reading of the settings that has begun before the system checks: pid, fd, request; {}: none
    reading: dict[str, Any] = field(default_factory=dict)
    # device and inode by path, for the server that SIGUSR2 starts
    socket_files: dict[str, list[int]] = field(default_factory=dict)
    # the monitor's listener, for that server: fd, address, file, board; {}: none
    monitor: dict[str, Any] = field(default_factory=dict)


def applications_of(settings: Any) -> dict[str, str]:
    """Return the applications that the settings name, by interface, as ``module:callable``.

    A worker that knows the name can import the project's own module first, as other servers do. That
    module may set the environment that the settings read.
    """
    applications = {}
    for interface in ("wsgi", "asgi"):
        dotted = getattr(settings, f"{interface.upper()}_APPLICATION", None)
        if isinstance(dotted, str) and "." in dotted:
            applications[interface] = ":".join(dotted.rsplit(".", 1))
    return applications


def write(handover: Handover) -> int:
    """Write a handover to a new anonymous file that survives exec, and return the descriptor.

    Raises ConfigurationError if WORKERGUARD contains a value that JSON cannot hold, such as a function.
    """
    data = _encoded(handover)
    fd = need_written("workerguard-handover", data)
    os.set_inheritable(fd, True)
    return fd


def rewrite(fd: int, handover: Handover) -> None:
    """Replace the handover by a newer one, for a server that SIGUSR2 may start."""
    write_all(fd, _encoded(handover))


def _encoded(handover: Handover) -> bytes:
    try:
        return json.dumps(vars(handover), default=plain).encode()
    except TypeError as error:
        raise ConfigurationError(
            f"WORKERGUARD contains a value that cannot be passed to the server: {error}",
            hint="Put server hooks and other objects into gunicorn.conf.py.",
        ) from None


def plain(value: Any) -> Any:
    """Convert a path to a string or a set to a list, for JSON. Raises TypeError for any other value."""
    kind = type(value)  # `isinstance` and `hasattr` make a lazy object evaluate itself
    if hasattr(kind, "__fspath__"):
        return os.fspath(value)
    if issubclass(kind, set | frozenset):
        return sorted(value)
    raise TypeError(f"{value!r} is of type {kind.__name__}")


def read(fd: int) -> Handover:
    """Read a handover of this or another release, and leave the descriptor open."""
    return decoded(read_all(fd))


def decoded(data: bytes) -> Handover:
    """Return the handover without the fields that this release does not know."""
    return from_known(Handover, json.loads(data))
