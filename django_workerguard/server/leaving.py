"""The last seconds of a worker that has answered all its requests. Runs in the worker.

Python waits for every thread that is not a daemon before it ends a process. A scheduler that the project
starts and never stops would take the whole mercy at each stop, recycle and reload.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from django_workerguard.errors import ExitCode
from django_workerguard.fleet.guard import Guard

PATIENCE = 5.0  # seconds that the project's threads get to end by themselves


def limit_threads(log: Any, guard: Guard) -> None:
    """Bound the wait for threads that this process is about to begin; the threads that outlast it are named."""
    if not _waited_for():
        return
    # a daemon, so that it is not waited for itself; gevent's threads end with their hub
    threading.Thread(target=_end, args=(log, guard), name="workerguard-end", daemon=True).start()


def _end(log: Any, guard: Guard) -> None:
    time.sleep(PATIENCE)
    names = ", ".join(repr(thread.name) for thread in _waited_for())
    if names:
        text = "slot=%d gen=%d pid=%d ends after %g s, though threads that are not daemons go on: %s"
        values = (guard.slot, guard.generation, os.getpid(), PATIENCE, names)
        log.warning(text, *values, extra={"action": "threads-left"})
        guard.board.write_seat_report(
            guard.seat, {**guard.board.read_seat_report(guard.seat), "threads": names}
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.OK)


def _waited_for() -> list[threading.Thread]:
    """List the threads that Python waits for at its end."""
    return [
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not thread.daemon and thread is not threading.main_thread()
    ]
