"""Request to and answer of the process that reads the settings. Runs in the arbiter, before it serves too, and in manage.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from typing import Any

from django_workerguard.config import interpreter
from django_workerguard.config.environment import Changes
from django_workerguard.config.handover import Handover
from django_workerguard.config.memfd import need_written, read_all
from django_workerguard.values import from_known, value_class

READER = "django_workerguard.config.settings_reader"


@value_class(kw_only=True)
class Request:
    """The settings module to read, and the project's own ways to it.

    The process runs the release that is on the disk, and the arbiter the one from its start. So a reader ignores a field
    that it does not know, here and in the answer, and a new field needs a default.
    """

    module: str
    entry: str = ""  # a manage.py, which may prepare the environment before the settings are read
    entry_arguments: tuple[str, ...] = ("serve_guarded",)  # its own, and the command
    environ: dict[str, str | None] = field(default_factory=dict)  # changes of the entry when it last ran
    directory: str = ""  # the working directory; "": that of the server
    applications: tuple[str, ...] = ()  # module:callable; they may prepare the environment, too
    path: tuple[str, ...] = ()  # the import path: PYTHONPATH cannot hold a directory with a colon in its name


@value_class(kw_only=True)
class Answer:
    """The content of the settings; ``error`` if they cannot be imported, ``wrong`` if they cannot be used."""

    setting: dict[str, Any] = field(default_factory=dict)
    applications: dict[str, str] = field(default_factory=dict)
    debug: bool = False
    environ: dict[str, str | None] = field(default_factory=dict)  # changes of the entry
    error: str = ""
    wrong: str = ""
    silent: bool = False  # the process ended without an answer


SILENT = Answer(error="the process that imported it ended without an answer", silent=True)


def request_for(
    handover: Handover, *, app: str = "", module: str = "", chdir: str = "", pythonpath: Sequence[str] = ()
) -> Request:
    """Return the request for the settings of a handover.

    ``module``, ``chdir`` and ``pythonpath`` come from gunicorn's configuration and take precedence; ``app``: the
    application, if an option names it.
    """
    return Request(
        module=module or handover.settings_module,
        entry=handover.entry,
        entry_arguments=tuple(handover.entry_arguments),
        environ=handover.environ,
        directory=chdir or handover.directory,
        applications=tuple(name for name in (app, *handover.applications.values()) if name),
        path=(*pythonpath, *([chdir] if chdir else ()), *handover.sys_path),
    )


def encode(request: Request) -> str:
    """Return the request as it is written to the file."""
    return json.dumps(asdict(request))


def decode(data: bytes) -> Request:
    """Return the request as it was written, by this or another release."""
    return from_known(Request, json.loads(data))


def write_request(request: Request) -> int:
    """Write a request to a new file, in which the process leaves its answer. Return the descriptor.

    Raises ConfigurationError if the file cannot be created.
    """
    return need_written("workerguard-settings", encode(request).encode())


def command(fd: int, *, patience: float) -> list[str]:
    """Return the arguments of a process that reads the request in ``fd`` and writes its answer there.

    It ends itself after ``patience`` seconds, even if the process that started it has ended; 0: never.
    """
    return interpreter.command(READER, str(fd), str(patience))


def environment(base: Mapping[str, str], request: Request, changes: Changes | None = None) -> dict[str, str]:
    """Return the environment of the process: that of the server's start, with the changes and the import path."""
    environ: dict[str, str | None] = dict(base)
    if request.directory:
        environ["PWD"] = request.directory
    environ.update(changes or {})
    environ["PYTHONPATH"] = ":".join(request.path)
    return {name: value for name, value in environ.items() if value is not None}


def read_answer(fd: int) -> Answer:
    """Return the answer. It is valid even if the process failed afterwards."""
    try:
        content = json.loads(read_all(fd))
        if "module" in content:  # still the request
            return SILENT
        return from_known(Answer, content)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return SILENT
