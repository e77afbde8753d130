"""The subcommands of ``workerguard``. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from django_workerguard import __version__
from django_workerguard.cli import control_requests
from django_workerguard.cli.probe import answer
from django_workerguard.cli.server_choice import candidates, choose
from django_workerguard.cli.stacks import show_stacks
from django_workerguard.config.output import finish, show, show_error
from django_workerguard.config.project_path import here
from django_workerguard.config.text import plain
from django_workerguard.config.units import seconds
from django_workerguard.errors import ConfigurationError, ExitCode, NoServerError, WorkerguardError
from django_workerguard.report.findings import with_findings
from django_workerguard.report.metrics_text import metrics_text
from django_workerguard.report.status_text import bars, table
from django_workerguard.report.tables import (
    MEMORY_ORDERS,
    event_line,
    explanation,
    explanation_of_mold,
    explanation_of_server,
    memory_table,
    requests_table,
)
from django_workerguard.report.verdict import KINDS
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header, ServerKind
from django_workerguard.scoreboard.in_hand import requests_of_servers
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import Server, is_live
from django_workerguard.scoreboard.samples import read_series
from django_workerguard.scoreboard.snapshot import SNAPSHOT_VERSION, snapshot
from django_workerguard.scoreboard.view_memory import memory_of_servers

SHORTEST_WATCH = 0.1  # seconds
FOLLOW_EVERY = 0.5  # seconds
TRANSLATIONS = ("settings", "command", "env", "gunicorn-conf", "systemd", "compose", "k8s")
# of the drill, which only its own command imports
ACTS = (
    "calm",
    "kill",
    "failing-loads",
    "hanging-load",
    "broken-reload",
    "reload",
    "recycle",
    "memory",
)
SHELLS = ("bash", "zsh", "tcsh")
CLEAR_SCREEN = "\033[H\033[2J"


def run(argv: list[str], prog: str) -> int:
    """Run a command and return its exit code. Print an error as one line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal cannot show must not end the output
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(argv, prog)
    except WorkerguardError as error:
        return show_error(error)
    except KeyboardInterrupt:
        return ExitCode.OK


def _run(argv: list[str], prog: str) -> int:
    try:
        parsed = _parser(prog).parse_args(argv)
    except SystemExit:  # it has printed the help or the version
        finish()
        raise
    command: Callable[[argparse.Namespace], int] = parsed.command
    code = command(parsed)
    finish()
    return code


def _parser(prog: str) -> argparse.ArgumentParser:
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--name", default=os.environ.get("WORKERGUARD_NAME"), help="Name of the server: NAME or NAME.PID."
    )
    which.add_argument(
        "--run-dir",
        default=os.environ.get("WORKERGUARD_RUN_DIR") or None,
        help="Directory of the server's scoreboard.",
    )
    which.add_argument(
        "--celery",
        action="store_true",
        help="Use the pool of the project's Celery worker, not the web server.",
    )
    parser = argparse.ArgumentParser(
        prog=prog, description="Show and control the running guarded server of this project."
    )
    parser.add_argument("--version", action="version", version=f"django-workerguard {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    output = argparse.ArgumentParser(add_help=False)
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="Print JSON.")
    form.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=1.0,
        metavar="SECONDS",
        help="Repeat every SECONDS seconds (1 by default): in place on a terminal, otherwise one table after the other.",
    )
    status = commands.add_parser("status", parents=[which, output], help="Show every slot, and the findings.")
    status.set_defaults(command=_status)

    metrics = commands.add_parser(
        "metrics", parents=[which], help="Print the metrics in the text format of Prometheus."
    )
    metrics.set_defaults(command=_metrics)

    events = commands.add_parser("events", parents=[which], help="Show the events, oldest first.")
    events.add_argument("--json", action="store_true", help="Print one JSON object per line.")
    events.add_argument("-n", "--lines", type=_positive, help="Show only this number of latest events.")
    events.add_argument(
        "-f", "--follow", action="store_true", help="Continue with new events as they happen."
    )
    events.set_defaults(command=_events)

    _add_looks_at_requests(commands, parents=[which, output])

    stacks = commands.add_parser(
        "stacks", parents=[which], help="Show where the worker of a slot is just now. The worker goes on."
    )
    stacks.add_argument("slot", type=_positive)
    stacks.add_argument(
        "--all",
        action="store_true",
        help="Show every thread, greenlet and task, not only those that serve a request.",
    )
    stacks.set_defaults(command=show_stacks)

    probe = commands.add_parser(
        "probe",
        parents=[which],
        help="Exit with 0 if the server is live, ready or started, otherwise with 69.",
    )
    probe.add_argument("kind", choices=KINDS)
    probe.set_defaults(command=_probe)

    wait = argparse.ArgumentParser(add_help=False)
    wait.add_argument(
        "--wait",
        nargs="?",
        type=_seconds,
        const=0.0,
        metavar="SECONDS",
        help="Show the progress and wait for the end, at most SECONDS. Exit with 22 when a load fails.",
    )
    reload = commands.add_parser(
        "reload", parents=[which, wait], help="Load settings, configuration and code again, in new workers."
    )
    reload.set_defaults(command=control_requests.reload)

    recycle = commands.add_parser(
        "recycle",
        parents=[which, wait],
        help="Replace the worker of one slot, or of every slot, within the disruption budget.",
    )
    slots = recycle.add_mutually_exclusive_group(required=True)
    slots.add_argument("slot", nargs="?", type=_positive)
    slots.add_argument("--all", action="store_true", help="Replace the workers of all slots.")
    recycle.set_defaults(command=control_requests.recycle)

    scale = commands.add_parser("scale", parents=[which, wait], help="Change the target number of workers.")
    scale.add_argument("target", type=_positive)
    scale.set_defaults(command=control_requests.scale)

    explain = commands.add_parser(
        "explain",
        parents=[which],
        help="Show the findings and what to do, or the state of a slot and the reasons for it.",
    )
    explain.add_argument("slot", type=_whole, nargs="?", help="Number of the slot; 0: the mold.")
    explain.set_defaults(command=_explain)

    _add_from_uwsgi(commands)
    _add_drill(commands)

    completion = commands.add_parser(
        "completion", help="Print the script that completes this command in a shell."
    )
    completion.add_argument("shell", choices=SHELLS)
    completion.set_defaults(command=lambda parsed: _completion(parser, parsed.shell))
    return parser


def _add_looks_at_requests(commands: Any, parents: list[argparse.ArgumentParser]) -> None:
    requests = commands.add_parser(
        "requests", parents=parents, help="Show the requests that are being served, the oldest first."
    )
    requests.set_defaults(command=_requests)

    memory = commands.add_parser(
        "memory", parents=parents, help="Show by how much each view has made its workers grow."
    )
    memory.add_argument("--slot", type=_positive, help="Only the workers of this slot.")
    memory.add_argument(
        "--by",
        choices=list(MEMORY_ORDERS),
        default="growth",
        help="What is listed first: the view that has kept the most (growth), or of which one request added the most "
        "(jump).",
    )
    memory.set_defaults(command=_memory)


def _add_from_uwsgi(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from_uwsgi = commands.add_parser(
        "from-uwsgi",
        help="Translate uWSGI's configuration, and report what becomes of each of its lines.",
        usage="%(prog)s [--format FORMAT] [--env NAME=VALUE] [FILE[:SECTION] …] [-- UWSGI-ARGUMENT …]",
    )
    from_uwsgi.add_argument(
        "--format",
        choices=TRANSLATIONS,
        default=TRANSLATIONS[0],
        help="Form of the translation. Default: settings.",
    )
    from_uwsgi.add_argument(
        "--env",
        action="append",
        metavar="NAME=VALUE",
        help="Variable of the environment that uWSGI is started with. May be repeated.",
    )
    from_uwsgi.add_argument(
        "input",
        nargs="*",
        metavar="FILE",
        help="Files of uWSGI: ini, xml, yaml or json; - is the standard input.",
    )
    from_uwsgi.set_defaults(command=_from_uwsgi)


def _add_drill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drill = commands.add_parser(
        "drill",
        help="Start the project on a private address, play faults under load, and judge what they cost.",
        usage="%(prog)s [OPTION …] [-- SERVE-ARGUMENT … [-- GUNICORN-ARGUMENT …]]",
    )
    drill.add_argument(
        "--path",
        action="append",
        metavar="PATH",
        help="Path to request with GET. May be repeated. Default: the warm-up paths, otherwise /.",
    )
    drill.add_argument(
        "--read-only",
        action="store_true",
        help="Use the database of the settings: GET requests to the paths write nothing.",
    )
    drill.add_argument("--settings", metavar="MODULE", help="Settings module. Default: that of manage.py.")
    drill.add_argument("--pythonpath", metavar="DIR", help="Directory to add to the import path.")
    drill.add_argument(
        "--act", action="append", choices=ACTS, help="Act to play. May be repeated. Default: all of them."
    )
    drill.add_argument(
        "--against", choices=("gunicorn",), help="Play the acts on plain gunicorn too, without verdicts."
    )
    drill.add_argument(
        "--clients", type=_positive, default=4, metavar="N", help="Number of clients at a time. Default: 4."
    )
    drill.add_argument(
        "--calm",
        type=_seconds,
        default=3.0,
        metavar="SECONDS",
        help="Seconds of load without a fault. Default: 3.",
    )
    drill.add_argument(
        "--hold",
        type=_seconds,
        default=2.0,
        metavar="SECONDS",
        help="Seconds for which a broken reload and a shortage of memory last. Default: 2.",
    )
    drill.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="Seconds after which an act fails if the workers are not all ready again. Default: 60.",
    )
    drill.add_argument("--json", action="store_true", help="Print JSON.")
    drill.add_argument("--report", metavar="FILE", help="Write a page with the timeline: HTML, one file.")
    drill.add_argument("--junit", metavar="FILE", help="Write the verdicts as JUnit XML, for CI.")
    drill.add_argument(
        "arguments", nargs="*", metavar="SERVE-ARGUMENT", help="Arguments of serve_guarded, such as -w 4."
    )
    drill.set_defaults(command=_drill)


def _drill(parsed: argparse.Namespace) -> int:
    from django_workerguard.cli.drill import run  # imported late: no other command needs it

    return run(parsed)


def _completion(parser: argparse.ArgumentParser, shell: str) -> int:
    try:
        import shtab  # an extra, and no other command needs it
    except ImportError:
        raise ConfigurationError(
            "the completion of commands needs the package shtab",
            hint="Install it: pip install 'django-workerguard[completion]'.",
        ) from None
    show(shtab.complete(parser, shell))
    return ExitCode.OK


def _from_uwsgi(parsed: argparse.Namespace) -> int:
    from django_workerguard.cli.from_uwsgi import run  # imported late: no other command needs it

    return run(parsed)


def _seconds(text: str) -> float:
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _status(parsed: argparse.Namespace) -> int:
    if parsed.watch is not None:
        _watch(parsed, max(parsed.watch, SHORTEST_WATCH))
    servers, pools = ([with_findings(snapshot(one.board)) for one in kind] for kind in _servers(parsed))
    if parsed.json:
        document: dict[str, Any] = servers[-1] if servers else {"version": SNAPSHOT_VERSION}
        replaces = {"replaces": servers[:-1]} if len(servers) > 1 else {}
        show(json.dumps({**document, **replaces, "pools": pools}, indent=2))
    else:
        is_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if is_terminal else None
        colour = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        show("\n\n".join(table(shot, width=width, colour=colour) for shot in (*servers, *pools)))
    return ExitCode.OK


def _metrics(parsed: argparse.Namespace) -> int:
    servers, pools = ([snapshot(one.board) for one in kind] for kind in _servers(parsed))
    show(metrics_text(servers[-1] if servers else None, pools), end="")
    return ExitCode.OK


def _servers(parsed: argparse.Namespace) -> tuple[list[Server], list[Server]]:
    """Return the server and its project's pools. Raises NoServerError if there is neither."""
    servers: list[Server] = []
    missing = None
    if not parsed.celery:
        try:
            servers = choose(parsed, here=Path(here()))
        except NoServerError as error:
            missing = error
    try:
        pools = candidates(parsed, ServerKind.POOL, here=Path(here()))
    except NoServerError as error:
        if not servers:
            raise missing or error from None
        pools = []
    return servers, pools


def _watch(parsed: argparse.Namespace, every: float) -> NoReturn:
    def read() -> list[Board]:
        return [server.board for kind in _servers(parsed) for server in kind]

    if sys.stdout.isatty():
        try:
            screen = import_module("django_workerguard.cli.watch")
        except ImportError as error:
            raise ConfigurationError(
                f"the live screen cannot be shown: {error}",
                option="watch",
                hint="Install the extra: pip install 'django-workerguard[rich]', or pipe the output.",
            ) from None

        def look() -> list[tuple[dict[str, Any], dict[int, str]]]:
            return [(snapshot(board), _sparklines(board, screen.MINUTES)) for board in read()]

        screen.watch(look, every)
    while True:
        show("\n\n".join(table(snapshot(board)) for board in read()), end="\n\n", flush=True)
        time.sleep(every)


def _sparklines(board: Board, minutes: int) -> dict[int, str]:
    """Return the requests of each slot in the last minutes, as bars."""
    slots = range(1, min(board.words[Header.TARGET], board.layout.slots) + 1)
    return {slot: bars(read_series(board, slot).requests[-minutes:]) for slot in slots}


def _events(parsed: argparse.Namespace) -> int:
    server = choose(parsed, here=Path(here()))[-1]
    events = list(read_events(server.board))
    new = events[-parsed.lines :] if parsed.lines else events
    last = 0
    while True:
        for event in new:
            show(json.dumps(event) if parsed.json else event_line(event), flush=parsed.follow)
            last = event["number"]
        if not parsed.follow or not is_live(server.board):
            return ExitCode.OK
        time.sleep(FOLLOW_EVERY)
        server.board.refresh()
        new = list(read_events(server.board, after=last))


def _requests(parsed: argparse.Namespace) -> int:
    return _repeated(parsed, requests_of_servers, requests_table)


def _memory(parsed: argparse.Namespace) -> int:
    def look(boards: list[Board]) -> dict[str, Any]:
        target = max(board.words[Header.TARGET] for board in boards)
        if parsed.slot is not None and parsed.slot > target:
            raise _no_slot(parsed.slot, target)
        return memory_of_servers(boards, slot=parsed.slot)

    return _repeated(parsed, look, partial(memory_table, by=parsed.by))


def _no_slot(slot: int, target: int) -> ConfigurationError:
    return ConfigurationError(f"there is no slot {slot}: the slots are 1 to {target}")


def _repeated(
    parsed: argparse.Namespace,
    look: Callable[[list[Board]], dict[str, Any]],
    render: Callable[[dict[str, Any]], list[str]],
) -> int:
    """Print what a look at the servers finds, as JSON or as lines; with --watch again and again."""
    while True:
        found = look([server.board for server in choose(parsed, here=Path(here()))])
        if parsed.json:
            show(json.dumps(found, indent=2))
        else:
            lines = render(found)
            if parsed.watch is not None and sys.stdout.isatty():
                show(CLEAR_SCREEN, end="")
                lines = lines[: max(2, os.get_terminal_size().lines - 1)]
            show("\n".join(lines), flush=True)
        if parsed.watch is None:
            return ExitCode.OK
        time.sleep(max(parsed.watch, SHORTEST_WATCH))


def _probe(parsed: argparse.Namespace) -> int:
    if not parsed.celery:
        return answer(parsed.kind, choose(parsed, here=Path(here()))[-1].board.vitals)
    pools = candidates(parsed, ServerKind.POOL, here=Path(here()))
    return max(answer(parsed.kind, pool.board.vitals, of=plain(pool.name)) for pool in pools)


def _explain(parsed: argparse.Namespace) -> int:
    if parsed.slot is None:
        shots = [snapshot(server.board) for kind in _servers(parsed) for server in kind]
        show("\n\n".join(explanation_of_server(shot) for shot in shots))
        return ExitCode.OK
    server = choose(parsed, here=Path(here()))[-1]
    shot = snapshot(server.board)
    if parsed.slot == 0 and shot["mold"] is not None:
        show(explanation_of_mold(shot, read_events(server.board)))
        return ExitCode.OK
    slot = next((slot for slot in shot["slots"] if slot["slot"] == parsed.slot), None)
    if slot is None:
        raise _no_slot(parsed.slot, shot["target"])
    show(explanation(shot, slot, read_events(server.board)))
    return ExitCode.OK
