"""Arguments of ``serve_guarded`` and ``python -m django_workerguard serve``. Runs in the starting command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from django_workerguard.config.options import OPTIONS, Option
from django_workerguard.config.subjects import SUBJECTS
from django_workerguard.errors import ConfigurationError

ADDRPORT = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):)?(?P<port>\d+)")
SERVER_OPTIONS = ("bind", "workers", "worker_class", "threads", "timeout", "config")


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at the first ``--``, before anything is parsed: the arguments after it are gunicorn's own."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def kept_by_program(started: Sequence[str], program: str, passed: Sequence[str]) -> list[str]:
    """Return what a program such as manage.py was started with and has not passed on to Django.

    ``manage.py --production serve_guarded`` may take its own arguments away. ``started``: the interpreter's command line;
    ``passed``: the program's name, the command and its arguments. The command is part of the result.
    """
    _, command, *taken = passed
    words = list(started[started.index(program) + 1 :]) if program in started else []
    kept: list[str] = []
    for word in reversed(words):  # the program's own usually come first
        if word in taken:
            taken.remove(word)
        else:
            kept.insert(0, word)
    return kept if command in kept else [*kept, command]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that both commands understand."""
    parser.usage = "%(prog)s [[host:]port] [OPTION …] [-- GUNICORN-OPTION …]"
    parser.add_argument(
        "addrport", nargs="?", help="[host:]port to listen on, as in runserver. A short form of --bind."
    )
    server = parser.add_argument_group("server (gunicorn's options; pass all others after --)")
    server.add_argument(
        "-b", "--bind", action="append", metavar="ADDRESS", help="Address to listen on. May be repeated."
    )
    server.add_argument(
        "-w",
        "--workers",
        metavar="N|auto",
        help="Target number of workers. auto: chosen from CPUs and memory once a load has been measured.",
    )
    server.add_argument(
        "-k",
        "--worker-class",
        metavar="CLASS",
        help="Worker class: sync, gthread, gevent, asgi or uvicorn_worker.UvicornWorker.",
    )
    server.add_argument("--threads", metavar="N", help="Number of threads per worker (gthread).")
    server.add_argument(
        "--timeout",
        metavar="SECONDS",
        help="Seconds without a sign of life after which a serving worker is aborted.",
    )
    server.add_argument("-c", "--config", metavar="FILE", help="Path of gunicorn.conf.py.")
    instead = parser.add_argument_group("instead of serving")
    instead.add_argument(
        "--print-config",
        action="store_true",
        help="Print every value and where it was set. Secrets are masked.",
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="Load the application once, as a worker does, say whether it can be forked if load is mold or auto, and exit.",
    )
    for subject, fields in SUBJECTS.items():
        group = parser.add_argument_group(subject)
        for option in map(OPTIONS.__getitem__, fields):
            group.add_argument(
                option.flag,
                dest=f"guard_{option.field}",
                metavar=option.metavar,
                help=_help(option).replace("%", "%%"),
            )


def _help(option: Option) -> str:
    return f"{option.help} Mirrors uWSGI's {option.uwsgi}." if option.uwsgi else option.help


def collect(parsed: dict[str, Any]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the action, the guard's raw values and gunicorn's raw values from parsed arguments.

    Raises ConfigurationError for a wrong addrport and for arguments that contradict each other.
    """
    if parsed.get("check") and parsed.get("print_config"):
        raise ConfigurationError("--check and --print-config cannot be used together")
    action = "check" if parsed.get("check") else "print-config" if parsed.get("print_config") else "serve"
    guard = {field: parsed[f"guard_{field}"] for field in OPTIONS if parsed.get(f"guard_{field}") is not None}
    server = {name: parsed[name] for name in SERVER_OPTIONS if parsed.get(name) is not None}
    if parsed.get("addrport"):
        if "bind" in server:
            raise ConfigurationError(
                f"{parsed['addrport']!r} and --bind both set the address", hint="Use one of them."
            )
        server["bind"] = [parse_addrport(parsed["addrport"])]
    return action, guard, server


def parse_addrport(text: str) -> str:
    """Turn runserver's ``[host:]port`` into gunicorn's address. Raises ConfigurationError."""
    match = ADDRPORT.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise ConfigurationError(
            f"{text!r} is not a port or address:port", option="addrport", where="the command line"
        )
    return f"{match['host'] or '127.0.0.1'}:{match['port']}"
