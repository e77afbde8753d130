"""The command line of ``serve_guarded`` and ``python -m django_workerguard serve``. Runs in the starting command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

from django_workerguard.config.options import OPTIONS
from django_workerguard.errors import ConfigurationError

ADDRPORT = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):)?(?P<port>\d+)")
SERVER_OPTIONS = ("bind", "workers", "worker_class", "threads", "timeout", "config")


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split at the first ``--``, before anything is parsed: what follows is gunicorn's own."""
    argv = list(argv)
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what both commands understand."""
    parser.add_argument(
        "addrport", nargs="?", help="[host:]port to listen on, as runserver has it; the short form of --bind."
    )
    server = parser.add_argument_group("server (gunicorn's own; all others after --)")
    server.add_argument(
        "-b", "--bind", action="append", metavar="ADDRESS", help="Where to listen; repeatable."
    )
    server.add_argument("-w", "--workers", metavar="N", help="The target: how many workers.")
    server.add_argument(
        "-k",
        "--worker-class",
        metavar="CLASS",
        help="sync, gthread, gevent, asgi or uvicorn_worker.UvicornWorker.",
    )
    server.add_argument("--threads", metavar="N", help="Threads per worker (gthread).")
    server.add_argument("--timeout", metavar="SECONDS", help="The longest silence of a serving worker.")
    server.add_argument("-c", "--config", metavar="FILE", help="gunicorn.conf.py.")
    what = parser.add_argument_group("instead of serving")
    what.add_argument(
        "--print-config", action="store_true", help="Print every value and where it was set; secrets masked."
    )
    what.add_argument(
        "--check", action="store_true", help="Load the application once, as a worker would, and exit."
    )
    guard = parser.add_argument_group("guard")
    for option in OPTIONS.values():
        guard.add_argument(
            option.flag,
            dest=f"guard_{option.field}",
            metavar=option.metavar,
            help=option.help.replace("%", "%%"),
        )


def collect(parsed: dict[str, Any]) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Return the action, the guard's raw values and gunicorn's raw values out of parsed arguments.

    Raises ConfigurationError for a wrong addrport, and for arguments that contradict.
    """
    if parsed.get("check") and parsed.get("print_config"):
        raise ConfigurationError("--check and --print-config exclude each other")
    action = "check" if parsed.get("check") else "print-config" if parsed.get("print_config") else "serve"
    guard = {field: parsed[f"guard_{field}"] for field in OPTIONS if parsed.get(f"guard_{field}") is not None}
    server = {name: parsed[name] for name in SERVER_OPTIONS if parsed.get(name) is not None}
    if parsed.get("addrport"):
        if "bind" in server:
            raise ConfigurationError(
                f"{parsed['addrport']!r} and --bind both say where to listen", hint="Give one of them."
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
