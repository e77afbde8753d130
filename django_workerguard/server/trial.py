"""The processes of `--check`: a worker that loads, or a mold and the worker that is forked from it.

Runs in place of the arbiter; `_be_worker` and `_be_mold` in its children, which never come back from there.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socket import socket
from types import SimpleNamespace
from typing import Any

from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.arbiter.main_thread import signal_main_thread
from django_workerguard.config import standard_streams
from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Layout, Seat, SeatState
from django_workerguard.scoreboard.places import anonymous_board
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.workers.mixin import is_asgi, server_steps
from django_workerguard.server.workers.mold import Mold, wait_for_adoption
from django_workerguard.worker import load
from django_workerguard.worker.after_fork import become_subreaper, die_with_parent, release_seat_after_fork
from django_workerguard.worker.mold_channel import open_pair, read_answer, send
from django_workerguard.worker.seat_handle import SeatHandle

INTERVAL = 0.01  # seconds between two looks at a process
DUMP_TIMEOUT = 5.0  # seconds that a process has to dump its stacks


class TrialError(Exception):
    """A process did not load, and has not reported an error of the application."""


@dataclass
class Process:
    """A child, and its seat."""

    pid: int
    handle: SeatHandle
    end: Exit | None = None

    @property
    def report(self) -> dict[str, Any]:
        """The steps of its load, and its hazards or its error."""
        return self.handle.board.read_seat_report(self.handle.seat)

    @property
    def is_fit(self) -> bool:
        """Whether workers can be forked from it. It is a mold."""
        return self.handle.state == SeatState.READY

    def has_ended(self) -> bool:
        if self.end is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.end = Exit.of(status) if pid else None
        return self.end is not None

    def wait(self, *states: SeatState, seconds: float) -> None:
        """Wait until the process has reached one of the states. Raises TrialError if it does not."""
        deadline = time.monotonic() + (seconds or math.inf)
        while self.handle.state not in states:
            if self.has_ended() and self.handle.state not in states:
                raise TrialError(f"the process ended: {self.end}")
            if time.monotonic() > deadline:
                self.abort()
                raise TrialError(f"load-timeout: {seconds:g} s")
            time.sleep(INTERVAL)

    def abort(self) -> None:
        """Have the process dump its stacks, and kill it if it does not end."""
        signal_main_thread(self.pid, signal.SIGABRT)
        deadline = time.monotonic() + DUMP_TIMEOUT
        while not self.has_ended() and time.monotonic() < deadline:
            time.sleep(INTERVAL)
        self.kill()

    def kill(self) -> None:
        if not self.has_ended():
            kill_and_collect([self.pid])
            self.end = Exit.of(signal.SIGKILL)


class Trial:
    """Makes the processes. Each of them has the load time-out for itself."""

    def __init__(self, app: GuardedApplication) -> None:
        self._app = app
        self._board = anonymous_board(Layout(seats=2, slots=1))
        self._seconds = app.guard.options.load_timeout
        self._processes: list[Process] = []
        self._dump_fd = -1
        with contextlib.suppress(OSError):  # stderr is closed
            self._dump_fd = os.dup(2)

    def worker(self) -> Process:
        """Start a worker that loads by itself."""
        handle = self._handle(0)
        return self._fork(handle, partial(_be_worker, self._app.cfg, handle, os.getpid()))

    def mold(self) -> Process:
        """Start a mold. Raises OSError."""
        become_subreaper()
        handle = self._handle(0)
        self._channel, its = open_pair()
        mold = self._fork(handle, partial(_be_mold, self._app.cfg, handle, its, self._channel, os.getpid()))
        its.close()
        return mold

    def finish_mold(self, mold: Process) -> None:
        """Wait until a mold has loaded. Raises TrialError."""
        mold.wait(SeatState.READY, SeatState.UNFIT, SeatState.FAILED, seconds=self._seconds)

    def fork_from(self, mold: Process) -> Process:
        """Have a mold fork a worker. Raises OSError and TrialError."""
        handle = self._handle(1)
        descriptors = (self._dump_fd,) if self._dump_fd >= 0 else ()
        send(self._channel, {"fork": handle.seat, "slot": handle.slot}, descriptors)
        deadline = time.monotonic() + (self._seconds or math.inf)
        while (answer := read_answer(self._channel)) is None:
            if mold.has_ended():
                raise TrialError(f"the mold ended while it forked: {mold.end}")
            if time.monotonic() > deadline:
                mold.abort()
                raise TrialError(f"the mold has not forked a worker within {self._seconds:g} s")
            time.sleep(INTERVAL)
        if answer.refused:
            raise TrialError(answer.refused)
        return self._adopt(answer.pid, handle)

    def convert(self, mold: Process) -> Process:
        """Have an unfit mold become a worker. Raises OSError."""
        mold.handle.set_state(SeatState.NONE)
        send(self._channel, {"serve": mold.handle.slot})
        return mold

    def finish(self, worker: Process) -> None:
        """Wait until a worker has loaded. Raises TrialError."""
        worker.wait(SeatState.LOADED, SeatState.FAILED, seconds=self._seconds)

    def end(self) -> None:
        """End all processes; a thread that the project has started holds up none of them."""
        for process in self._processes:
            process.kill()

    def _handle(self, seat: int) -> SeatHandle:
        app = self._app
        return SeatHandle(
            board=self._board,
            seat=seat,
            slot=1,
            generation=1,
            wake_fd=-1,
            dump_fd=self._dump_fd,
            request=app.load_request(asgi=is_asgi(app.cfg.worker_class)),
            options=app.guard.options,
        )

    def _fork(self, handle: SeatHandle, live: Callable[[], None]) -> Process:
        standard_streams.flush()
        pid = self._app.inheritance.functions.fork()
        if pid == 0:
            try:
                live()
            finally:
                standard_streams.flush()
                os._exit(ExitCode.OK)
        return self._adopt(pid, handle)

    def _adopt(self, pid: int, handle: SeatHandle) -> Process:
        self._board.words[handle.base + Seat.PID] = pid
        process = Process(pid, handle)
        self._processes.append(process)
        return process


def _be_mold(cfg: Any, handle: SeatHandle, channel: socket, other_end: socket, parent: int) -> None:
    other_end.close()  # or this process would not see that the parent has ended
    log = SimpleNamespace(reopen_files=lambda: None)
    mold = Mold(SimpleNamespace(cfg=cfg, worker_class=cfg.worker_class, pid=parent, log=log), handle, channel)
    try:
        mold.load()
    except BaseException as error:
        if handle.state in (SeatState.NONE, SeatState.LOADING):
            load.record_failure(handle, error)
        return
    own = mold.serve()
    wait_for_adoption(own, parent, between=mold.between)
    _be_worker(cfg, own, parent, mold.application)


def _be_worker(cfg: Any, handle: SeatHandle, parent: int, loaded: load.Application | None = None) -> None:
    if not die_with_parent(parent):
        return
    release_seat_after_fork(handle)
    try:
        load.load(handle, on_stop=lambda: None, server_steps=server_steps(cfg), loaded=loaded)
    except BaseException:  # it is in the seat
        return
    handle.set_state(SeatState.LOADED)
