"""``workerguard stacks``: where a worker is just now. Runs in a process of its own, without Django."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from django_workerguard.cli.control_requests import TimedOutError, send
from django_workerguard.cli.server_choice import choose
from django_workerguard.config.output import show
from django_workerguard.config.project_path import here
from django_workerguard.config.text import plain
from django_workerguard.errors import ConfigurationError, ExitCode
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.stacks import read_stacks, render
from django_workerguard.scoreboard.in_hand import requests_in_hand, workers_in_seats
from django_workerguard.scoreboard.layout import Seat
from django_workerguard.scoreboard.places import Server
from django_workerguard.scoreboard.stack_format import END, PATIENCE, AwaitedDump, Step

LONGEST = 4 << 20  # bytes
POLL = 0.01  # seconds


def show_stacks(parsed: argparse.Namespace) -> int:
    """Print the stacks of each worker of a slot."""
    server = choose(parsed, here=Path(here()))[-1]
    seats = [seat for seat, slot in workers_in_seats(server.board) if slot == parsed.slot]
    if not seats:
        raise ConfigurationError(f"slot {parsed.slot} has no worker: see workerguard status")
    show("\n\n".join(plain(_stacks(server, seat, everything=parsed.all)) for seat in seats))
    return ExitCode.OK


def _stacks(server: Server, seat: int, *, everything: bool) -> str:
    at = server.board.layout.seat(seat)
    pid, main = server.board.words[at + Seat.PID], server.board.words[at + Seat.MAIN_THREAD]
    requests = requests_in_hand(server.board, seat)
    now = monotonic_ns()
    dump = _ask(server, pid)
    if not dump:
        raise TimedOutError(
            f"pid {pid} has written nothing within {PATIENCE:g} s: it is stopped, or blocks all signals, or waits in the "
            f"kernel (state {_state(pid)}); it was not ended"
        )
    head = f"pid {pid}, slot {server.board.words[at + Seat.SLOT]}"
    if END not in dump:
        head += (
            "\nIts main thread runs no Python code just now, so greenlets and asyncio tasks cannot be listed, and other "
            "threads only on gthread."
        )
    rest = "" if everything else "\n\nThreads, greenlets and tasks without a request: --all"
    return f"{head}\n\n{render(read_stacks(dump, main=main), requests, now, everything=everything)}{rest}"


def _ask(server: Server, pid: int) -> str:
    """Return what a worker writes; "" if nothing came in time."""
    answer, fd = send(server, "stacks", {"pid": pid})
    try:
        awaited, step = AwaitedDump(time.monotonic()), Step.WAIT
        while step is not Step.DONE:
            if step is Step.FORCE:
                _, again = send(server, "stacks", {"pid": pid, "forced": True})
                os.close(again)
            time.sleep(POLL)
            dump = os.pread(fd, LONGEST, answer["offset"]).decode(errors="replace")
            awaited, step = awaited.seen(dump, time.monotonic())
    finally:
        os.close(fd)
    return dump


def _state(pid: int) -> str:
    """Return the state of a process as the kernel names it, with what it waits for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        waits = Path(f"/proc/{pid}/wchan").read_text()
    except (OSError, IndexError):
        return "unknown"
    return f"{state}, {waits}" if waits.strip("0") else state
