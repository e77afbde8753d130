"""A time limit for threads that still run when a process ends. Runs in the worker and in the arbiter.

Before a process ends, Python waits for every thread that is not a daemon. If the project starts a scheduler and never
stops it, each stop, recycle and reload of a worker would take the whole mercy. If gunicorn.conf.py or a hook starts one,
the arbiter would never end.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django_workerguard.config import standard_streams
from django_workerguard.errors import ExitCode
from django_workerguard.worker.seat_handle import SeatHandle

THREAD_TIMEOUT = 5.0  # seconds that the project's threads get to end by themselves


def limit_threads(log: Any, handle: SeatHandle) -> None:
    """Limit the time that a worker waits for its threads; write the names of the others to the log and the seat."""

    def report(names: str) -> None:
        text = "slot=%d gen=%d pid=%d the worker ends now: non-daemon threads still ran after %g s: %s"
        values = (handle.slot, handle.generation, os.getpid(), THREAD_TIMEOUT, names)
        log.warning(text, *values, extra={"action": "threads-left"})
        handle.board.write_seat_report(
            handle.seat, {**handle.board.read_seat_report(handle.seat), "threads": names}
        )

    _start_timer(report, ExitCode.OK)


def limit_threads_of_arbiter(exit_code: int) -> None:
    """Limit the time that an arbiter waits for threads of its configuration and hooks; keep its exit code."""

    def report(names: str) -> None:
        text = f"The server ends now: non-daemon threads still ran after {THREAD_TIMEOUT:g} s: {names}\n"
        sys.stderr.write(text)

    _start_timer(report, exit_code)


def _start_timer(report: Callable[[str], None], exit_code: int) -> None:
    if _non_daemon_threads():
        # a daemon, so that Python does not wait for it; gevent's threads end with their hub
        end = threading.Thread(
            target=_end_process, args=(report, exit_code), name="workerguard-end", daemon=True
        )
        end.start()


def _end_process(report: Callable[[str], None], exit_code: int) -> None:
    time.sleep(THREAD_TIMEOUT)
    names = ", ".join(repr(thread.name) for thread in _non_daemon_threads())
    if names:
        try:
            report(names)
            standard_streams.flush()
        finally:
            os._exit(exit_code)


def _non_daemon_threads() -> list[threading.Thread]:
    """List the threads that Python waits for before it ends."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and thread is not threading.main_thread()
    ]
