"""The subcommands of ``workerguard``. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from django_workerguard.cli import control_requests
from django_workerguard.cli.probe import tell
from django_workerguard.cli.server_choice import candidates, choose
from django_workerguard.config.project_path import here
from django_workerguard.config.text import plain
from django_workerguard.config.units import seconds
from django_workerguard.errors import ConfigurationError, ExitCode, NoServerError, WorkerguardError
from django_workerguard.report.findings import with_findings
from django_workerguard.report.tables import event_line, explanation, table
from django_workerguard.report.verdict import KINDS
from django_workerguard.scoreboard.header import Kind
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import Server, is_live
from django_workerguard.scoreboard.snapshot import SNAPSHOT_VERSION, snapshot

SHORTEST_WATCH = 0.1  # seconds
FOLLOW = 0.5  # seconds between two looks at the journal


def run(argv: list[str], prog: str) -> int:
    """Parse, choose the server, run. Prints one line for what a person did wrong."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show must not hide the rest
            stream.reconfigure(errors="backslashreplace")
    parsed = _parser(prog).parse_args(argv)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except WorkerguardError as error:
        print(plain(f"Error: {error}"), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.OK


def _parser(prog: str) -> argparse.ArgumentParser:
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--name", default=os.environ.get("WORKERGUARD_NAME"), help="The server, NAME or NAME.PID."
    )
    which.add_argument(
        "--run-dir",
        default=os.environ.get("WORKERGUARD_RUN_DIR") or None,
        help="Where the server keeps its scoreboard.",
    )
    which.add_argument(
        "--celery", action="store_true", help="The pool of the project's Celery worker, not the web server."
    )
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at the running guarded server of this project."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    status = commands.add_parser("status", parents=[which], help="Every slot, and what a person should know.")
    how = status.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="As JSON.")
    how.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=1.0,
        metavar="SECONDS",
        help="Go on, every second or so often: a live screen on a terminal, else one table after the other.",
    )
    status.set_defaults(command=_status)

    events = commands.add_parser("events", parents=[which], help="What happened, oldest first.")
    events.add_argument("--json", action="store_true", help="A JSON object a line.")
    events.add_argument("-n", "--lines", type=_positive, help="Only the last so many.")
    events.add_argument("-f", "--follow", action="store_true", help="Go on as more happens.")
    events.set_defaults(command=_events)

    probe = commands.add_parser("probe", parents=[which], help="Exit 0 or 69: live, ready or startup.")
    probe.add_argument("kind", choices=KINDS)
    probe.set_defaults(command=_probe)

    wait = argparse.ArgumentParser(add_help=False)
    wait.add_argument(
        "--wait",
        nargs="?",
        type=_seconds,
        const=0.0,
        metavar="SECONDS",
        help="Show the progress and wait for the end, at most so long; exit 22 at the first load that fails.",
    )
    reload = commands.add_parser(
        "reload", parents=[which, wait], help="Read settings, configuration and code anew, in new workers."
    )
    reload.set_defaults(command=control_requests.reload)

    recycle = commands.add_parser(
        "recycle", parents=[which, wait], help="Replace a slot's worker, or every slot's, within the budget."
    )
    chosen = recycle.add_mutually_exclusive_group(required=True)
    chosen.add_argument("slot", nargs="?", type=_positive)
    chosen.add_argument("--all", action="store_true", help="Every slot.")
    recycle.set_defaults(command=control_requests.recycle)

    scale = commands.add_parser(
        "scale", parents=[which, wait], help="Change how many workers there are to be."
    )
    scale.add_argument("target", type=_positive)
    scale.set_defaults(command=control_requests.scale)

    explain = commands.add_parser("explain", parents=[which], help="Why a slot is as it is.")
    explain.add_argument("slot", type=_positive)
    explain.set_defaults(command=_explain)
    return parser


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


# the commands


def _status(parsed: argparse.Namespace) -> int:
    if parsed.watch is not None:
        _watch(parsed, max(parsed.watch, SHORTEST_WATCH))
    servers, pools = ([with_findings(shot) for shot in shots] for shots in _looks(parsed))
    if parsed.json:
        whole: dict[str, Any] = servers[-1] if servers else {"version": SNAPSHOT_VERSION}
        replaces = {"replaces": servers[:-1]} if len(servers) > 1 else {}
        print(json.dumps({**whole, **replaces, "pools": pools}, indent=2))
    else:
        print("\n\n".join(table(shot) for shot in (*servers, *pools)))
    return ExitCode.OK


def _looks(parsed: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Look at the server that is meant, and at its project's pools. Raises NoServerError where there is neither."""
    servers: list[Server] = []
    missing = None
    if not parsed.celery:
        try:
            servers = choose(parsed, here=Path(here()))
        except NoServerError as error:
            missing = error
    try:
        pools = candidates(parsed, Kind.POOL, here=Path(here()))
    except NoServerError as error:
        if not servers:
            raise missing or error from None
        pools = []
    return [snapshot(server.board) for server in servers], [snapshot(pool.board) for pool in pools]


def _watch(parsed: argparse.Namespace, every: float) -> NoReturn:
    def look() -> list[dict[str, Any]]:
        servers, pools = _looks(parsed)
        return [*servers, *pools]

    if sys.stdout.isatty():
        try:
            watching = import_module("django_workerguard.cli.watch")
        except ImportError as error:
            raise ConfigurationError(
                f"a live screen cannot be shown: {error}",
                option="watch",
                hint="Install the extra: pip install 'django-workerguard[rich]', or pipe the output.",
            ) from None
        watching.watch(look, every)
    while True:
        print("\n\n".join(table(shot) for shot in look()), end="\n\n", flush=True)
        time.sleep(every)


def _events(parsed: argparse.Namespace) -> int:
    server = choose(parsed, here=Path(here()))[-1]
    events = list(read_events(server.board))
    shown = events[-parsed.lines :] if parsed.lines else events
    last = 0
    while True:
        for event in shown:
            print(json.dumps(event) if parsed.json else event_line(event), flush=parsed.follow)
            last = event["number"]
        if not parsed.follow or not is_live(server.board):
            return ExitCode.OK
        time.sleep(FOLLOW)
        server.board.refresh()
        shown = list(read_events(server.board, after=last))


def _probe(parsed: argparse.Namespace) -> int:
    if not parsed.celery:
        return tell(parsed.kind, choose(parsed, here=Path(here()))[-1].board.vitals)
    pools = candidates(parsed, Kind.POOL, here=Path(here()))
    return max(tell(parsed.kind, pool.board.vitals, of=pool.name) for pool in pools)


def _explain(parsed: argparse.Namespace) -> int:
    server = choose(parsed, here=Path(here()))[-1]
    shot = snapshot(server.board)
    slot = next((slot for slot in shot["slots"] if slot["slot"] == parsed.slot), None)
    if slot is None:
        raise ConfigurationError(f"there is no slot {parsed.slot}: the slots are 1 to {shot['target']}")
    print(explanation(shot, slot, read_events(server.board)))
    return ExitCode.OK
