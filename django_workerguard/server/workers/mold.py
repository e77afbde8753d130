"""A mold: it loads the application, serves nothing and forks workers. Runs in the mold, and at the start of its workers."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from socket import socket
from typing import Any

from gunicorn import util

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Seat, SeatState
from django_workerguard.worker import load
from django_workerguard.worker.after_fork import (
    block_signals,
    die_with_parent,
    keep_seat,
    release_arbiter,
    release_seat_after_fork,
)
from django_workerguard.worker.double_fork import double_fork
from django_workerguard.worker.mold_channel import await_message, receive, send
from django_workerguard.worker.seat_handle import SeatHandle

ADOPTION_TIMEOUT = 10.0  # seconds in which the arbiter has to register a new worker
# what worker classes import only once they run: each worker would have a copy of its own
LATE_IMPORTS = {
    "ASGIWorker": ("uvloop", "gunicorn.instrument.statsd"),
    "UvicornWorker": (
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
        "uvicorn.loops.uvloop",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.websockets.auto",
        "gunicorn.instrument.statsd",
    ),
}


class Mold:
    """The process that loads for a generation. ``host``: gunicorn's arbiter, as it was when it forked this process."""

    def __init__(self, host: Any, handle: SeatHandle, channel: socket) -> None:
        self._host = host
        self._handle = handle
        self._channel = channel
        self.application: load.Application
        self.between = 0  # in a worker: the process that forked it, which is about to end
        self._hazards: Callable[[], tuple[Any, ...]]

    def load(self) -> None:
        """Load the application, as a worker would, and settle it.

        Raises any exception of the load, and OSError or MemoryError if there is no room to look for hazards.
        """
        host, cfg = self._host, self._host.cfg
        os.environ.update(cfg.env or {})
        if _is_gevent(host.worker_class):
            import_module("gevent.monkey").patch_all()
        util.set_owner_process(cfg.uid, cfg.gid, initgroups=cfg.initgroups)
        cfg.set("initgroups", False)  # a worker may not do it a second time
        if not die_with_parent(host.pid):
            raise SystemExit(ExitCode.OK)
        release_seat_after_fork(self._handle)
        sentinel = import_module(load.SENTINEL)
        baseline = sentinel.Baseline.now()
        self._hazards = lambda: sentinel.hazards(baseline)
        self.application, self._reporter = load.load_in_mold(self._handle)
        _import_late(host.worker_class)
        _destroy_gevent_hub()
        signal.signal(signal.SIGUSR1, lambda _number, _frame: host.log.reopen_files())
        self._handle.stamp(Seat.LOAD_END)
        if self._is_fit():
            self._handle.stamp(Seat.READY)
            self._handle.set_state(SeatState.READY)

    def _is_fit(self) -> bool:
        """Return whether a worker can be forked now. Otherwise report the hazards.

        Raises OSError or MemoryError if there is no room to look for them.
        """
        hazards = self._hazards()
        if hazards:
            self._reporter.unfit([str(hazard) for hazard in hazards])
            self._handle.set_state(SeatState.UNFIT)
        return not hazards

    def serve(self) -> SeatHandle:
        """Fork a worker for each request of the arbiter.

        Returns only in a process that is a worker now, with what ties it to its seat: a fork, or this process itself.
        """
        while True:
            await_message(self._channel)
            refusal = self._refusal()  # as it was before the message brought descriptors
            message, descriptors = receive(self._channel)
            if message is None:  # the arbiter has ended
                os._exit(ExitCode.OK)
            if "serve" in message:
                self._channel.close()
                return replace(self._handle, slot=message["serve"])
            worker = None
            if refusal is not None:
                self._answer(message["fork"], **refusal)
            else:
                worker = self._fork(message, descriptors)
            if worker is not None:
                return worker
            for fd in descriptors:
                os.close(fd)

    def _refusal(self) -> dict[str, Any] | None:
        """Return why no worker can be forked now; None if one can be."""
        try:
            if self._is_fit():
                return None
        except (OSError, MemoryError) as error:
            return _shortage("scan", error)
        return {"refused": "no worker can be forked from the mold any more", "excused": True}

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> SeatHandle | None:
        seat = message["fork"]
        with keep_seat(), block_signals():
            try:
                forked = double_fork()
            except (OSError, MemoryError) as error:
                self._answer(seat, **_shortage("fork", error))
                return None
            if not forked.worker:
                self._channel.close()
                release_arbiter((self._handle.dump_fd,))
        if not forked.worker:
            self.between = forked.between
            dump_fd = descriptors[0] if descriptors else -1
            return replace(self._handle, seat=seat, slot=message["slot"], dump_fd=dump_fd)
        self._answer(seat, pid=forked.worker)
        return None

    def _answer(self, seat: int, **answer: Any) -> None:
        with contextlib.suppress(OSError):  # the arbiter has ended
            send(self._channel, {"seat": seat, **answer})
        self._handle.wake()


def _shortage(what: str, error: Exception) -> dict[str, Any]:
    """Return the answer for a fork that failed because there was no room for it."""
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    reason = os.strerror(number) if number else str(error)
    return {"refused": f"{what}: {reason}", "memory": number == errno.ENOMEM}


def wait_for_adoption(handle: SeatHandle, arbiter: int, *, between: int) -> None:
    """Wait until this process is a child of the arbiter, and registered in its seat.

    End it if that does not come, and at once if the arbiter has ended. ``between``: the process that forked this one.
    """
    words, deadline = handle.board.words, time.monotonic() + ADOPTION_TIMEOUT
    while (parent := os.getppid()) != arbiter or words[handle.base + Seat.PID] != os.getpid():
        if parent not in (arbiter, between) or time.monotonic() > deadline:
            os._exit(ExitCode.OK)
        time.sleep(0.0005)


def _is_gevent(worker_class: type) -> bool:
    return any(cls.__name__ == "GeventWorker" for cls in worker_class.__mro__)


def _destroy_gevent_hub() -> None:
    """Destroy the hub that the load may have made: its loop would be shared by all workers."""
    if "gevent" in sys.modules:
        hub = import_module("gevent._hub_local").get_hub_if_exists()
        if hub is not None:
            hub.destroy(destroy_loop=True)


def _import_late(worker_class: type) -> None:
    names = {name for cls in worker_class.__mro__ for name in LATE_IMPORTS.get(cls.__name__, ())}
    for name in sorted(names):
        with contextlib.suppress(Exception):  # an optional part of the server
            import_module(name)
