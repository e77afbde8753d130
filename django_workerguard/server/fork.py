"""Fork gunicorn's workers and the stand-in. Runs in the arbiter; `_live` in the child."""

from __future__ import annotations

import faulthandler
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from socket import socket
from typing import Any

from gunicorn import util

from django_workerguard.arbiter.children import MoldUnreachableError, Start
from django_workerguard.arbiter.control_socket import ControlSocket, WakePipe
from django_workerguard.arbiter.exits import exit_code_of
from django_workerguard.arbiter.molds import Channels
from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Orders, SeatKind, SeatState
from django_workerguard.server.host import Host
from django_workerguard.server.workers.mixin import is_asgi
from django_workerguard.server.workers.stand_in import StandIn, without_hooks
from django_workerguard.worker.after_fork import (
    become_subreaper,
    block_signals,
    offer_to_oom_killer,
    release_arbiter,
)
from django_workerguard.worker.import_caches import clear_import_caches
from django_workerguard.worker.load import record_failure
from django_workerguard.worker.seat_handle import SeatHandle
from django_workerguard.worker.shutdown import limit_wait


class GunicornFork:
    """Makes a process of gunicorn's arbiter, with the user's hooks."""

    orders = Orders.NONE  # a worker waits for its admission

    def __init__(
        self,
        host: Host,
        *,
        wake: WakePipe,
        control: ControlSocket | None,
        channels: Channels,
        secrets: Callable[[], Iterable[int]],
    ) -> None:
        """``secrets``: the descriptors with secrets in them, which no child gets."""
        self._host = host
        self._channels = channels
        self._wake = wake
        self._control = control
        self._secrets = secrets

    def handle(self, start: Start) -> SeatHandle:
        host = self._host
        return SeatHandle(
            board=host.board,
            seat=start.seat,
            slot=start.slot,
            generation=start.generation,
            wake_fd=self._wake.write_fd,
            dump_fd=start.dump_fd,
            options=host.app.guard.options,
            request=host.app.load_request(asgi=is_asgi(host.worker_class)),
        )

    def fork(self, start: Start, handle: SeatHandle, others: Iterable[int]) -> tuple[int, Any]:
        """Make gunicorn's worker object, run the hook, fork. The child never comes back from here."""
        match start.kind:
            case SeatKind.MOLD:
                return self._fork_mold(start, handle, others), None
            case SeatKind.STAND_IN:
                worker = self._worker(StandIn)
            case _:
                worker = self._prepare()
        worker.take_seat(handle)
        pid = self._fork(handle, others)
        if pid == 0:
            _never_back(handle, _live, self._host, worker, handle, stand_in=start.kind is SeatKind.STAND_IN)
        try:
            worker.pid = pid
            if start.kind is SeatKind.WORKER:
                self._host.WORKERS[pid] = worker
        except MemoryError:  # a child that is not in the tables would wait for its admission for ever
            os.kill(pid, signal.SIGKILL)
            raise
        return pid, worker

    def _fork(self, handle: SeatHandle, others: Iterable[int]) -> int:
        with block_signals():
            pid = self._host.app.inheritance.functions.fork()
            if pid == 0:
                _never_back(handle, release_arbiter, self._not_for_children(others))
                _never_back(handle, self._host.board.drop_lock)
        return pid

    def _fork_mold(self, start: Start, handle: SeatHandle, others: Iterable[int]) -> int:
        become_subreaper()
        channel = self._channels.open(start.seat)
        try:
            pid = self._fork(handle, others)
        except OSError:
            channel.close()
            self._channels.close(start.seat)
            raise
        if pid == 0:
            _never_back(handle, _be_mold, self._host, handle, channel)
        channel.close()
        return pid

    def ask(self, mold: int, start: Start) -> Any:
        """Run the hook, and ask a mold for a worker."""
        worker = self._prepare()
        descriptors = (start.dump_fd,) if start.dump_fd >= 0 else ()
        self._send(mold, {"fork": start.seat, "slot": start.slot}, descriptors)
        return worker

    def convert(self, start: Start) -> Any:
        """Run the hook, and have a mold become a worker."""
        worker = self._prepare()
        self._send(start.seat, {"serve": start.slot})
        self._channels.close(start.seat)
        return worker

    def _send(self, mold: int, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        try:
            self._channels.send(mold, message, descriptors)
        except (OSError, KeyError) as error:
            raise MoldUnreachableError(str(error) or type(error).__name__) from error

    def arrived(self, pid: int, worker: Any) -> None:
        worker.pid = pid
        self._host.WORKERS[pid] = worker

    def _prepare(self) -> Any:
        """Make the arbiter's object of a worker, and run the hook, which must cost this worker at most."""
        host = self._host
        worker = self._worker(host.worker_class)
        try:
            host.cfg.pre_fork(host, worker)
        except SystemExit as error:
            raise RuntimeError(f"the pre_fork hook raised SystemExit({error.code!r})") from error
        return worker

    def _worker(self, make: type[Any]) -> Any:
        return _made(make, self._host)

    def _not_for_children(self, others: Iterable[int]) -> Iterator[int]:
        yield self._wake.read_fd
        yield from self._channels.descriptors()
        yield from self._secrets()
        if self._control is not None:
            yield self._control.surrender()
        yield from others


def _made(make: type[Any], host: Host) -> Any:
    """Make gunicorn's object of a worker, as gunicorn's arbiter does."""
    host.worker_age += 1
    return make(host.worker_age, host.pid, host.LISTENERS, host.app, host.timeout / 2.0, host.cfg, host.log)


def _never_back(handle: SeatHandle, step: Callable[..., None], *arguments: Any, **more: Any) -> None:
    """Run a step of a child; any exception but SystemExit ends the process: there is one arbiter."""
    try:
        step(*arguments, **more)
    except SystemExit:
        raise
    except BaseException as error:
        try:
            if handle.state in (SeatState.NONE, SeatState.LOADING):
                record_failure(handle, error)
        finally:
            os._exit(ExitCode.UNEXPECTED)


def _be_mold(host: Host, handle: SeatHandle, channel: socket) -> None:
    """Be a mold until it ends, and be a worker in each of its forks. Always raises SystemExit at the end."""
    # imported here, because the arbiter needs none of it
    module = import_module("django_workerguard.server.workers.mold")
    mold = module.Mold(host, handle, channel)
    util._setproctitle(f"mold [{host.proc_name}]")
    try:
        clear_import_caches()
        mold.load()
    except SystemExit:
        raise
    except BaseException as error:
        if handle.state in (SeatState.NONE, SeatState.LOADING):
            record_failure(handle, error)
        limit_wait(host.log, handle)
        raise SystemExit(ExitCode.LOAD_FAILED) from None
    own = mold.serve()
    faulthandler.disable()  # it writes to a descriptor of the mold's, which is closed
    module.wait_for_adoption(own, host.pid, between=mold.between)
    worker = _made(host.worker_class, host)
    worker.take_seat(own)
    worker.loaded = mold.application
    _live(host, worker, own, stand_in=False)


def _live(host: Host, worker: Any, handle: SeatHandle, *, stand_in: bool) -> None:
    """Be a child, from the fork to the exit. Always raises SystemExit at the end."""
    worker.pid = os.getpid()
    worker.server = host
    cfg = host.cfg
    if stand_in:
        without_hooks(cfg)
    else:
        offer_to_oom_killer()
    try:
        util._setproctitle(f"{'stand-in' if stand_in else f'worker {handle.slot}'} [{host.proc_name}]")
        if not stand_in:
            if worker.loaded is None:
                clear_import_caches()
            cfg.post_fork(host, worker)
        worker.init_process()
    except SystemExit:
        raise
    except BaseException as error:
        if handle.state in (SeatState.NONE, SeatState.LOADING, SeatState.LOADED):
            record_failure(handle, error)
        else:
            host.log.exception("Exception in worker process")
        raise SystemExit(exit_code_of(error)) from None
    finally:
        try:
            cfg.worker_exit(host, worker)
        except Exception:
            host.log.warning("Exception during worker exit:\n%s", traceback.format_exc())
        limit_wait(host.log, handle)
    raise SystemExit(0)
