"""Load the application once, as a worker would, and say what happened. Runs in place of the arbiter."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NoReturn

from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.workers.mixin import is_asgi, server_steps
from django_workerguard.worker import load
from django_workerguard.worker.seat_handle import SeatHandle


def check(app: GuardedApplication) -> NoReturn:
    """Print the load's steps, or why it failed, and end the process with the exit code."""
    board = Board.create(Layout(seats=1, slots=1), None)
    handle = SeatHandle(
        board=board,
        seat=0,
        slot=1,
        generation=1,
        wake_fd=-1,
        dump_fd=-1,
        request=app.load_request(asgi=is_asgi(app.cfg.worker_class)),
        options=app.guard.options,
    )
    patience = app.guard.options.load_timeout
    overdue = threading.Timer(patience, _give_up, (board, patience)) if patience else None
    if overdue is not None:
        overdue.daemon = True
        overdue.start()
    try:
        load.load(handle, on_stop=lambda: None, server_steps=server_steps(app.cfg))
        failed = False
    except BaseException:
        failed = True
    if overdue is not None:
        overdue.cancel()
    code = _tell(board, app.guard.options.warmup, failed=failed)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that the project has started must not hold it up


def _give_up(board: Board, patience: float) -> None:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    step = board.read_seat_report(0).get("step")
    print(f"Error: the load failed in step {step}: load-timeout: {patience:g} s", file=sys.stderr, flush=True)
    os._exit(ExitCode.LOAD_FAILED)


def _tell(board: Board, warmup: tuple[str, ...], *, failed: bool) -> int:
    report = board.read_seat_report(0)
    steps = report.get("steps", [])
    for step in steps:
        print(_line(step, warmup))
    if failed:
        error = report.get("error") or {}
        place = f" in step {error['step']}" if error.get("step") else ""
        print(f"{error.get('traceback', '')}", file=sys.stderr)
        print(
            f"Error: the load failed{place}: {error.get('type')}: {plain(str(error.get('message')))}",
            file=sys.stderr,
        )
        return ExitCode.LOAD_FAILED
    for step in steps:
        for part in step["skipped"]:
            print(f"left out in step {step['name']}: {part['part']}: {part['type']}: {part['message']}")
        for left in step["left"]:
            print(f"left open by step {step['name']}: {left}")
    print(f"The application loads (pid {os.getpid()}).")
    return ExitCode.OK


def _line(step: Mapping[str, Any], warmup: tuple[str, ...]) -> str:
    """Return a step's time and memory, and the option that leaves it out; the first requests then pay for it."""
    peak, kept = (in_megabytes(step[key], digits=1) for key in ("peak_bytes", "retained_bytes"))
    line = f"{step['name']:24} {step['seconds'] * 1000:8.0f} ms {peak:>11} peak {kept:>11} kept"
    if step["name"] not in warmup:
        return line
    others = ",".join(name for name in warmup if name != step["name"])
    return f"{line}   without it: --warmup {others or repr('')}"
