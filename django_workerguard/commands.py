"""The subcommands of ``workerguard``. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from django_workerguard import cli
from django_workerguard.errors import ConfigurationError, ExitCode, NoServerError, WorkerguardError
from django_workerguard.report.assess import with_findings
from django_workerguard.report.table import event_line, story, table
from django_workerguard.report.verdict import KINDS
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import Server, find_servers, is_live, server_name, unreadable
from django_workerguard.scoreboard.snapshot import snapshot

FOLLOW = 0.5  # seconds between two looks at the journal


def run(argv: list[str], prog: str) -> int:
    """Parse, choose the server, run. Prints one line for what a person did wrong."""
    parsed = _parser(prog).parse_args(argv)
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        return command(parsed)
    except WorkerguardError as error:
        print(f"Error: {error}", file=sys.stderr)
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
    parser = argparse.ArgumentParser(
        prog=prog, description="Look at the running guarded server of this project."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    status = commands.add_parser("status", parents=[which], help="Every slot, and what a person should know.")
    status.add_argument("--json", action="store_true", help="As JSON.")
    status.set_defaults(command=_status)

    events = commands.add_parser("events", parents=[which], help="What happened, oldest first.")
    events.add_argument("--json", action="store_true", help="A JSON object a line.")
    events.add_argument("-n", "--lines", type=_positive, help="Only the last so many.")
    events.add_argument("-f", "--follow", action="store_true", help="Go on as more happens.")
    events.set_defaults(command=_events)

    probe = commands.add_parser("probe", parents=[which], help="Exit 0 or 69: live, ready or startup.")
    probe.add_argument("kind", choices=KINDS)
    probe.set_defaults(command=_probe)

    explain = commands.add_parser("explain", parents=[which], help="Why a slot is as it is.")
    explain.add_argument("slot", type=_positive)
    explain.set_defaults(command=_explain)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


# choosing the server


def choose(parsed: argparse.Namespace, *, here: Path) -> list[Server]:
    """Return the server that is meant; two where one replaces the other after SIGUSR2.

    Raises NoServerError, and ConfigurationError where several could be meant.
    """
    environ, uid = os.environ, os.geteuid()
    found = list(find_servers(parsed.run_dir, environ=environ, uid=uid))
    if not found:
        broken = list(unreadable(parsed.run_dir, environ=environ, uid=uid))
        raise NoServerError(f"no running server was found{'; ' if broken else ''}{'; '.join(broken)}.")
    if parsed.name:
        wanted = (parsed.name, server_name(parsed.name, here))
        named = [server for server in found if server.name in wanted or server.label in wanted]
        if not named:
            raise NoServerError(f"no running server is called {parsed.name!r}: there is {_labels(found)}.")
        return _one_family(named)
    near = [server for server in found if _is_near(Path(server.project), here)]
    if not near and not parsed.run_dir and (here / "manage.py").exists():
        raise NoServerError(f"no server of this project runs: there is {_labels(found)}.")
    return _one_family(near or found)


def _one_family(servers: list[Server]) -> list[Server]:
    parents = {server.board.read_about().get("replaces") for server in servers}
    heirs = [server for server in servers if server.pid not in parents]
    if len(heirs) == 1:
        return sorted(servers, key=lambda server: server.board.words[Header.STARTED_AT])
    raise ConfigurationError(f"several servers run: {_labels(servers)}", hint="Choose one with --name.")


def _labels(servers: list[Server]) -> str:
    return ", ".join(f"{server.label} ({server.project})" for server in servers)


def _is_near(project: Path, here: Path) -> bool:
    return project == here or project in here.parents or here in project.parents


# the commands


def _status(parsed: argparse.Namespace) -> int:
    shots = [with_findings(snapshot(server.board)) for server in choose(parsed, here=Path.cwd())]
    if parsed.json:
        print(json.dumps(shots[-1] if len(shots) == 1 else {**shots[-1], "replaces": shots[:-1]}, indent=2))
    else:
        print("\n\n".join(table(shot) for shot in shots))
    return ExitCode.OK


def _events(parsed: argparse.Namespace) -> int:
    server = choose(parsed, here=Path.cwd())[-1]
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
        shown = list(read_events(server.board, after=last))


def _probe(parsed: argparse.Namespace) -> int:
    return cli.tell(parsed.kind, choose(parsed, here=Path.cwd())[-1].board.vitals)


def _explain(parsed: argparse.Namespace) -> int:
    server = choose(parsed, here=Path.cwd())[-1]
    shot = snapshot(server.board)
    slot = next((slot for slot in shot["slots"] if slot["slot"] == parsed.slot), None)
    if slot is None:
        raise ConfigurationError(f"there is no slot {parsed.slot}: the slots are 1 to {shot['target']}")
    print(story(shot, slot, read_events(server.board)))
    return ExitCode.OK
