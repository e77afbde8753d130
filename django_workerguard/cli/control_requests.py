"""The commands that change a running server: reload, recycle, scale. Runs in a process of its own, without Django.

Each sends a request to the control socket. With ``--wait`` it then follows the journal, prints
the events as they happen, and reports the result in its exit code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django_workerguard.cli.server_choice import choose
from django_workerguard.config.project_path import here
from django_workerguard.config.text import plain
from django_workerguard.errors import ExitCode, WorkerguardError
from django_workerguard.report.tables import event_line
from django_workerguard.scoreboard.control_client import ask_for_file
from django_workerguard.scoreboard.header import Header, LoadKind
from django_workerguard.scoreboard.journal import read_events
from django_workerguard.scoreboard.places import Server, is_live
from django_workerguard.scoreboard.snapshot import snapshot

READ_EVERY = 0.05  # seconds between two reads of the journal
PRINTED = (
    "reload",
    "mold-spawned",
    "mold-ready",
    "mold-unfit",
    "spawned",
    "ready",
    "retiring",
    "exited",
    "load-failed",
    "spawn-failed",
    "frozen",
    "scaled",
    "killed",
)
FAILED = ("load-failed", "spawn-failed")
MOLD = 0  # the slot of the mold's events
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
    generations: list[int] = []  # the one that this reload has begun

    def over(event: Event) -> bool:
        match event["event"]:
            case "reload-refused":
                raise RefusedError(f"the reload was refused and nothing has changed: {event['reason']}")
            case "reload":
                generations[:] = [event["generation"]]
            case "reloaded":
                return bool(generations)
        return False

    def concerns(event: Event) -> bool:
        return bool(generations) and event.get("generation", 0) >= generations[0]

    return _request(parsed, over, concerns, do="reload")


def recycle(parsed: argparse.Namespace) -> int:
    """Replace the worker of one slot, or of every slot."""
    server = choose(parsed, here=Path(here()))[-1]
    slots = [slot for slot in snapshot(server.board)["slots"] if parsed.all or slot["slot"] == parsed.slot]
    old_pids = {slot["pid"] for slot in slots if slot["pid"]}
    numbers = {slot["slot"] for slot in slots}

    def over(event: Event) -> bool:
        if event["event"] in ("exited", "load-failed"):
            old_pids.discard(event.get("pid"))
        return not old_pids

    arguments = {"all": True} if parsed.all else {"slot": parsed.slot}
    # without a mold there is no replacement either
    return _request(
        parsed, over, lambda event: event.get("slot") in {MOLD, *numbers}, do="recycle", **arguments
    )


def scale(parsed: argparse.Namespace) -> int:
    """Change the target."""

    def over(_: Event) -> bool:
        shot = snapshot(server.board)
        return bool(shot["ready"] == shot["target"] == parsed.target == len(shot["slots"]))

    server = choose(parsed, here=Path(here()))[-1]
    return _request(parsed, over, lambda _: True, do="scale", target=parsed.target)


def _request(
    parsed: argparse.Namespace,
    over: Callable[[Event], bool],
    concerns: Callable[[Event], bool],
    *,
    do: str,
    **arguments: Any,
) -> int:
    """Send a request. With ``--wait`` follow the journal until it is over, or until a load that it caused has failed."""
    server = choose(parsed, here=Path(here()))[-1]
    before = server.board.words[Header.EVENTS]
    send(server, do, arguments)
    if parsed.wait is None:
        print(f"{do}: accepted. workerguard events --follow shows the progress.")
        return ExitCode.OK
    for event in _events(server, before, parsed.wait):
        if event["event"] in PRINTED:
            print(event_line(event), flush=True)
        if _is_failure(server, event) and concerns(event):
            raise FailedError(_why(server, event))
        if over(event):
            print(f"{do}: done.")
            return ExitCode.OK
    raise RefusedError("the server has ended")


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


def _is_failure(server: Server, event: Event) -> bool:
    """Return whether an event says that a load has failed. With load=auto an unfit mold is none: each worker loads."""
    if event["event"] == "mold-unfit":
        return server.board.words[Header.LOAD] == LoadKind.NAMES.index("mold")
    return event["event"] in FAILED


def _why(server: Server, event: Event) -> str:
    place = "the mold" if event["slot"] == MOLD else f"slot {event['slot']}"
    if event["event"] == "spawn-failed":
        return f"{place}: {event['reason']}"
    error = server.board.read_last_error(event["slot"]) or {}
    if event["event"] == "mold-unfit":
        return f"{place}: no worker can be forked from the application: {error.get('message')}"
    sys.stderr.write(plain(str(error.get("traceback") or "")))
    step = f" in step {event['step']}" if event.get("step") else ""
    return f"{place}: the load failed{step}: {event['type']}: {event['message']}"
