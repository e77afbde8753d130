"""The commands that change a running server: reload, recycle, scale. Runs in a process of its own, without Django.

Each sends a request to the control socket. With ``--wait`` it then follows the journal, prints
the events as they happen, and reports the result in its exit code.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_workerguard.cli.server_choice import choose
from django_workerguard.config.output import Output, say, show
from django_workerguard.config.project_path import here
from django_workerguard.errors import ExitCode, WorkerguardError
from django_workerguard.report.outcome import PROGRESS, Outcome, Recycle, Reload, failure
from django_workerguard.report.tables import event_line
from django_workerguard.scoreboard.control_client import ask_for_file
from django_workerguard.scoreboard.header import Header, LoadKind
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import Server, is_live
from django_workerguard.scoreboard.snapshot import snapshot

READ_EVERY = 0.05  # seconds between two reads of the journal
Event = dict[str, Any]


class RefusedError(WorkerguardError):
    """The server refused."""

    exit_code = ExitCode.REFUSED


class TimedOutError(WorkerguardError):
    """The result has not come in time."""

    exit_code = ExitCode.TIMED_OUT


class FailedError(WorkerguardError):
    """A load failed while the command waited."""

    exit_code = ExitCode.LOAD_FAILED


def reload(parsed: argparse.Namespace) -> int:
    """Load a new generation of workers."""
    server = choose(parsed, here=Path(here()))[-1]
    return _request(parsed, server, Reload(_load(server)).take, do="reload")


def recycle(parsed: argparse.Namespace) -> int:
    """Replace the worker of one slot, or of every slot."""
    server = choose(parsed, here=Path(here()))[-1]
    workers = {slot["slot"]: slot["pid"] for slot in snapshot(server.board)["slots"] if slot["pid"]}
    if not parsed.all:
        workers = {slot: pid for slot, pid in workers.items() if slot == parsed.slot}
    arguments = {"all": True} if parsed.all else {"slot": parsed.slot}
    return _request(parsed, server, Recycle(_load(server), workers).take, do="recycle", **arguments)


def scale(parsed: argparse.Namespace) -> int:
    """Change the target."""
    server = choose(parsed, here=Path(here()))[-1]

    def take(event: Mapping[str, Any]) -> Outcome | None:
        failed = failure(event, _load(server))
        if failed is not None:
            return failed
        shot = snapshot(server.board)
        over = shot["ready"] == shot["target"] == parsed.target == len(shot["slots"])
        return Outcome("done", "scale: done.", event) if over else None

    return _request(parsed, server, take, do="scale", target=parsed.target)


def _load(server: Server) -> str:
    return LoadKind.NAMES[min(server.board.words[Header.LOAD], len(LoadKind.NAMES) - 1)]


def _request(
    parsed: argparse.Namespace,
    server: Server,
    take: Callable[[Mapping[str, Any]], Outcome | None],
    *,
    do: str,
    **arguments: Any,
) -> int:
    """Send a request. With ``--wait`` follow the journal until the outcome is known."""
    before = server.board.words[Header.EVENTS]
    send(server, do, arguments)
    if parsed.wait is None:
        show(f"{do}: accepted. workerguard events --follow shows the progress.")
        return ExitCode.OK
    output = Output()
    for event in _events(server, before, parsed.wait):
        if event["event"] in PROGRESS:
            output.show(event_line(event), flush=True)
        outcome = take(event)
        if outcome is not None:
            return _report(server, outcome, output)
    raise RefusedError("the server has ended")


def _report(server: Server, outcome: Outcome, output: Output) -> int:
    """Print the outcome. Raises RefusedError, FailedError or CannotWriteError."""
    match outcome.kind:
        case "refused":
            raise RefusedError(outcome.text)
        case "failed":
            if outcome.event["event"] == "load-failed":
                error = server.board.read_last_error(outcome.event["slot"]) or {}
                say(str(error.get("traceback") or ""), end="")
            raise FailedError(outcome.text)
    output.show(outcome.text)
    return output.finish(ExitCode.OK)


def send(server: Server, do: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Send a request, and return the answer and the descriptor that came with it, -1 if none did. Raises RefusedError."""
    path = Path(str(server.board.path)).with_suffix(".sock")
    try:
        response, fd = ask_for_file(path, do, **arguments)
    except OSError as error:
        raise RefusedError(
            f"{server.label} does not answer on its control socket {path}: {error.strerror or 'no answer'}"
        ) from None
    if not response.get("accepted"):
        raise RefusedError(f"{server.label} refused: {response.get('reason')}")
    return response, fd


def _events(server: Server, after: int, patience: float) -> Iterator[Event]:
    """Yield the events after a number, and an empty event after each read. ``patience`` 0: without limit."""
    deadline = time.monotonic() + patience
    while True:
        for event in read_events(server.board, after=after):
            after = event["number"]
            yield event
        yield {"event": ""}
        if not is_live(server.board):
            return
        if patience and time.monotonic() > deadline:
            raise TimedOutError(
                f"not finished within {patience:g} s; the server continues without this command"
            )
        time.sleep(READ_EVERY)
        server.board.refresh()
