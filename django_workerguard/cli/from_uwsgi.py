"""``workerguard from-uwsgi``: translate uWSGI's configuration. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import os
from functools import partial

from django_workerguard.config.output import Output, say
from django_workerguard.config.text import plain
from django_workerguard.errors import ConfigurationError, ExitCode
from django_workerguard.from_uwsgi.formats import FORMATS
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.from_uwsgi.read.reader import read
from django_workerguard.from_uwsgi.read.settings_module import settings_module
from django_workerguard.from_uwsgi.report import report
from django_workerguard.from_uwsgi.table import load_table
from django_workerguard.from_uwsgi.translate.translation import translate


def run(parsed: argparse.Namespace) -> int:
    """Print the translation, and the report to the standard error."""
    files, arguments = _split(parsed.input)
    if not files and not arguments:
        raise ConfigurationError(
            "no file is named", hint="Name uwsgi.ini, or uWSGI's own arguments after --."
        )
    table = load_table()
    machine = Machine.here(_environ(parsed.env or []))
    directives = read(files, arguments, machine=machine, table=table)
    translation = translate(directives, table, partial(settings_module, machine))
    output = Output()
    output.show(plain(FORMATS[parsed.format](translation)), end="", flush=True)
    say(f"\n{report(translation)}")
    return output.finish(ExitCode.OK if translation.is_complete else ExitCode.INCOMPLETE)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the files from the arguments of uWSGI, which begin with the first dash."""
    at = next((at for at, word in enumerate(words) if word.startswith("-") and word != "-"), len(words))
    return words[:at], words[at:]


def _environ(assignments: list[str]) -> dict[str, str]:
    environ = dict(os.environ)
    for assignment in assignments:
        name, equal, value = assignment.partition("=")
        if not name or not equal:
            raise ConfigurationError(f"{assignment!r} is not of the form NAME=VALUE", where="--env")
        environ[name] = value
    return environ
