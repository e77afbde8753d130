"""``workerguard drill``: its arguments, and what it prints and writes. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from django_workerguard.config.environment import as_started
from django_workerguard.config.output import Output, say
from django_workerguard.config.project_path import here
from django_workerguard.config.text import plain
from django_workerguard.drill.acts import ACTS, Lengths
from django_workerguard.drill.formats.junit import failed_junit, junit
from django_workerguard.drill.formats.page import page
from django_workerguard.drill.formats.table import table
from django_workerguard.drill.overrides import NOT_INHERITED
from django_workerguard.drill.preparation import CannotRunError, Start, serve_arguments
from django_workerguard.drill.result import Report, as_document
from django_workerguard.drill.run import InterruptedDrillError, drill
from django_workerguard.drill.scene import Wish
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError

INTERRUPTED = 130  # as a shell reports it


def run(parsed: argparse.Namespace) -> int:
    """Run the drill, print the report and write the files. Return 0, 1 if a verdict failed, 2 if it could not run."""
    try:
        for option, name in (("--report", parsed.report), ("--junit", parsed.junit)):
            _require_writable(name, option)
        report = drill(_wish(parsed), say)
    except InterruptedDrillError:
        say("interrupted; the server is stopped and its directory removed")
        return INTERRUPTED
    except (WorkerguardError, OSError) as error:
        if parsed.junit:
            _write_if_possible(parsed.junit, failed_junit(str(error)))
        raise CannotRunError(str(error)) from None
    _write(parsed, report)
    output = Output()
    output.show(json.dumps(as_document(report), indent=2) if parsed.json else plain(table(report)))
    return output.finish(ExitCode.UNEXPECTED if report.failed else ExitCode.OK)


def _wish(parsed: argparse.Namespace) -> Wish:
    guard, server, passed_on = serve_arguments(parsed.arguments)
    acts = tuple(name for name in ACTS if name in (parsed.act or ACTS))
    for path in parsed.path or ():
        if not path.startswith("/") or not path.isprintable():
            raise ConfigurationError(f"{path!r} is not a path that begins with a slash", where="--path")
    environ = {name: value for name, value in as_started().items() if not name.startswith(NOT_INHERITED)}
    directory = here()
    return Wish(
        start=Start(
            directory=directory,
            entry=_entry(directory),
            settings=parsed.settings or "",
            pythonpath=parsed.pythonpath or "",
            guard=guard,
            server=server,
            passed_on=passed_on,
            environ=environ,
        ),
        paths=tuple(parsed.path or ()),
        acts=acts,
        read_only=parsed.read_only,
        against=parsed.against is not None,
        clients=parsed.clients,
        lengths=Lengths(calm=parsed.calm, hold=parsed.hold, patience=parsed.patience),
    )


def _entry(directory: str) -> str:
    """Return the path of manage.py: the one that runs this command, else that of the working directory; "": none."""
    running = os.path.join(directory, sys.argv[0])
    for path in (running, os.path.join(directory, "manage.py")):
        if os.path.basename(path) == "manage.py" and os.path.isfile(path):
            return os.path.normpath(path)
    return ""


def _require_writable(name: str | None, option: str) -> None:
    if name is None:
        return
    path = Path(name)
    place = path if path.exists() else path.parent
    if path.is_dir() or not place.exists() or not os.access(place, os.W_OK):
        raise ConfigurationError(f"{name!r} cannot be written", where=option)


def _write(parsed: argparse.Namespace, report: Report) -> None:
    if parsed.report:
        Path(parsed.report).write_text(page(report), encoding="utf-8")
    if parsed.junit:
        Path(parsed.junit).write_text(junit(report), encoding="utf-8")


def _write_if_possible(name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as error:
        say(f"{name} cannot be written: {error.strerror}")
