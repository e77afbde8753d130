"""Make a child: take a seat, fork, register. Runs in the arbiter; `_live` in the child."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from gunicorn import util

from django_workerguard.scoreboard.layout import SeatState
from django_workerguard.server.exits import exit_code_of
from django_workerguard.server.guard import Guard
from django_workerguard.server.hygiene import shed, signals_held
from django_workerguard.server.loading import record_failure


@dataclass(frozen=True)
class Child:
    """A process of ours: its role and what belongs to it."""

    pid: int
    seat: int
    worker: Any  # gunicorn's worker object
    dump_fd: int
    stand_in: bool = False


def open_dump() -> int:
    """Open where a child dumps its stacks; -1 where there is no descriptor left."""
    try:
        return os.memfd_create("workerguard-stacks")
    except OSError:
        return -1


def take_dump(child: Child) -> str:
    """Return the stacks that a gone child has dumped, and close where they lay."""
    if child.dump_fd < 0:
        return ""
    try:
        size = os.fstat(child.dump_fd).st_size
        return os.pread(child.dump_fd, min(size, 1 << 20), 0).decode(errors="replace")
    finally:
        os.close(child.dump_fd)


def fork(live: Callable[[], None]) -> int:
    """Fork; the child runs ``live`` and ends there. Return the child's pid.

    Raises OSError where there can be no child.
    """
    with signals_held():
        pid = os.fork()
        if pid == 0:
            shed(())
    if pid == 0:
        live()
        raise SystemExit(0)
    return pid


def live(arbiter: Any, worker: Any, guard: Guard, *, close: Iterable[int], name: str, hooks: bool) -> None:
    """Be a worker, from the fork to the exit. Raises SystemExit at the end, always."""
    shed(close)
    worker.pid = os.getpid()
    try:
        util._setproctitle(name)
        if hooks:
            arbiter.cfg.post_fork(arbiter, worker)
        worker.init_process()
    except SystemExit:
        raise
    except BaseException as error:
        if guard.state in (SeatState.NONE, SeatState.LOADING, SeatState.LOADED):
            record_failure(guard, error)
        else:
            arbiter.log.exception("Exception in worker process")
        raise SystemExit(exit_code_of(error)) from None
    finally:
        if hooks:
            _worker_exit(arbiter, worker)
    raise SystemExit(0)


def _worker_exit(arbiter: Any, worker: Any) -> None:
    try:
        arbiter.cfg.worker_exit(arbiter, worker)
    except Exception:
        arbiter.log.warning("Exception during worker exit:\n%s", traceback.format_exc())
