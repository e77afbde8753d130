"""The last seconds of a process that has done its work. Runs in the worker and in the arbiter.

Python waits for every thread that is not a daemon before it ends a process. A scheduler that the project
starts and never stops would take the whole mercy at each stop, recycle and reload of a worker; one that
gunicorn.conf.py or a hook starts would keep the arbiter for ever.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django_workerguard.errors import ExitCode
from django_workerguard.worker.seat_handle import SeatHandle

PATIENCE = 5.0  # seconds that the project's threads get to end by themselves


def limit_threads(log: Any, handle: SeatHandle) -> None:
    """Bound the wait of a worker for its threads; those that outlast it are named in the log and in its seat."""

    def report(names: str) -> None:
        text = "slot=%d gen=%d pid=%d ends after %g s, though threads that are not daemons go on: %s"
        values = (handle.slot, handle.generation, os.getpid(), PATIENCE, names)
        log.warning(text, *values, extra={"action": "threads-left"})
        handle.board.write_seat_report(
            handle.seat, {**handle.board.read_seat_report(handle.seat), "threads": names}
        )

    _limit(report, ExitCode.OK)


def limit_threads_of_arbiter(exit_code: int) -> None:
    """Bound the wait of an arbiter for the threads of its configuration and hooks, and keep its exit code."""

    def report(names: str) -> None:
        text = f"The server ends after {PATIENCE:g} s, though threads that are not daemons go on: {names}\n"
        sys.stderr.write(text)

    _limit(report, exit_code)


def _limit(report: Callable[[str], None], exit_code: int) -> None:
    if _waited_for():
        # a daemon, so that it is not waited for itself; gevent's threads end with their hub
        end = threading.Thread(target=_end, args=(report, exit_code), name="workerguard-end", daemon=True)
        end.start()


def _end(report: Callable[[str], None], exit_code: int) -> None:
    time.sleep(PATIENCE)
    names = ", ".join(repr(thread.name) for thread in _waited_for())
    if names:
        try:
            report(names)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(exit_code)


def _waited_for() -> list[threading.Thread]:
    """List the threads that Python waits for at its end."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and thread is not threading.main_thread()
    ]
