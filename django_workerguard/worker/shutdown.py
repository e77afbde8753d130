"""A time limit for threads and processes that still run when a process ends. Runs in the worker and in the arbiter.

Before a process ends, Python waits for every thread, and multiprocessing for every process of its own, that is not a
daemon. If the project starts a scheduler and never stops it, each stop, recycle and reload of a worker would take the
whole mercy. If gunicorn.conf.py or a hook starts one, the arbiter would never end. A process runs on without its parent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from django_workerguard.config import standard_streams
from django_workerguard.errors import ExitCode
from django_workerguard.worker.seat_handle import SeatHandle

TIMEOUT = 5.0  # seconds that they get to end by themselves


def limit_wait(log: Any, handle: SeatHandle) -> None:
    """Limit the time that a worker waits for what it has started; write the names of what is left to the log and the seat."""

    def report(names: str) -> None:
        text = "slot=%d gen=%d pid=%d the worker ends now: non-daemon threads or processes still ran after %g s: %s"
        values = (handle.slot, handle.generation, os.getpid(), TIMEOUT, names)
        log.warning(text, *values, extra={"action": "threads-left"})
        handle.board.write_seat_report(
            handle.seat, {**handle.board.read_seat_report(handle.seat), "threads": names}
        )

    _start_timer(report, ExitCode.OK)


def limit_wait_of_arbiter(exit_code: int) -> None:
    """Limit the time that an arbiter waits for what its configuration and hooks have started; keep its exit code."""

    def report(names: str) -> None:
        text = (
            f"The server ends now: non-daemon threads or processes still ran after {TIMEOUT:g} s: {names}\n"
        )
        sys.stderr.write(text)

    _start_timer(report, exit_code)


def _start_timer(report: Callable[[str], None], exit_code: int) -> None:
    if _waited_for():
        # a daemon, so that Python does not wait for it; gevent's threads end with their hub
        end = threading.Thread(
            target=_end_process, args=(report, exit_code), name="workerguard-end", daemon=True
        )
        end.start()


def _end_process(report: Callable[[str], None], exit_code: int) -> None:
    time.sleep(TIMEOUT)
    names = _waited_for()
    if names:
        try:
            report(", ".join(map(repr, names)))
            standard_streams.flush()
        finally:
            os._exit(exit_code)


def _waited_for() -> list[str]:
    """Return the names of the threads and processes that Python waits for before this process ends."""
    own = threading.main_thread(), threading.current_thread()
    threads = [one for one in threading.enumerate() if one not in own and one.is_alive()]
    names = [one.name for one in threads if not one.daemon]
    multiprocessing: Any = sys.modules.get("multiprocessing.process")
    if multiprocessing:
        # classes of the project; what fails here ends Python's own wait for them as well
        with contextlib.suppress(Exception):
            names += [one.name for one in multiprocessing.active_children() if not one.daemon]
    return names
