"""Start the process that reads the settings, and take its answer. Runs in the arbiter, and before it serves."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from django_workerguard.config.environment import Changes
from django_workerguard.config.memfd import need_anonymous, read_all, write_all

READER = "django_workerguard.config.settings_reader"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the process is to read: the module, and the project's own ways to it."""

    module: str
    entry: str = ""  # a manage.py, which may prepare the environment before the settings are read
    environ: dict[str, str | None] = field(default_factory=dict)  # what the entry changed when it last ran
    directory: str = ""  # the working directory; "": that of the server
    applications: tuple[str, ...] = ()  # module:callable, which may prepare it as well
    path: tuple[str, ...] = ()  # the import path: PYTHONPATH cannot hold a directory with a colon in its name


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the settings say; ``error`` if they cannot be imported, ``wrong`` if they cannot be used."""

    setting: dict[str, Any] = field(default_factory=dict)
    applications: dict[str, str] = field(default_factory=dict)
    debug: bool = False
    environ: dict[str, str | None] = field(default_factory=dict)  # what the entry changes
    error: str = ""
    wrong: str = ""
    silent: bool = False  # the process ended without an answer


SILENT = Answer(error="the process that imported it ended without an answer", silent=True)


def write_request(request: Request) -> int:
    """Return the descriptor of a file with the request, in which the process leaves its answer.

    Raises ConfigurationError if there can be none.
    """
    fd = need_anonymous("workerguard-settings")
    write_all(fd, json.dumps(asdict(request)).encode())
    return fd


def command(fd: int, *, patience: float) -> list[str]:
    """Return the arguments of a process that reads the request in ``fd`` and writes its answer there.

    It ends by itself after ``patience`` seconds, whether the process that started it lives or not; 0: never.
    """
    return [sys.executable, "-P", "-m", READER, str(fd), str(patience)]


def environment(base: Mapping[str, str], *changes: Changes, path: Sequence[str]) -> dict[str, str]:
    """Return the environment of the process: as the server was started, changed, with an import path."""
    environ: dict[str, str | None] = dict(base)
    for some in changes:
        environ.update(some)
    environ["PYTHONPATH"] = ":".join(path)
    return {name: value for name, value in environ.items() if value is not None}


def read_answer(fd: int) -> Answer:
    """Return what was written. It counts, however the process ended afterwards."""
    try:
        told = json.loads(read_all(fd))
        if "module" in told:  # still the request
            return SILENT
        return Answer(**told)
    except (ValueError, TypeError):
        return SILENT
