"""From a handover to a running server, a printed configuration or a check. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

import gunicorn.workers.base

from django_workerguard.arbiter.exits import exit_code_of, leave_word
from django_workerguard.config.handover import Handover
from django_workerguard.config.output import show, show_error
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import write_bounds
from django_workerguard.scoreboard.layout import layout_for
from django_workerguard.scoreboard.places import Opened, open_board, server_name
from django_workerguard.server.arbiter import GuardedArbiter
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.gunicorn_contract import require_contract, require_version
from django_workerguard.server.start import open_application
from django_workerguard.worker.package_sources import keep_sources
from django_workerguard.worker.seat_handle import SeatBeat
from django_workerguard.worker.shutdown import limit_wait_of_arbiter


def run(handover: Handover, handover_fd: int) -> int:
    """Do what the handover says and return the exit code. Prints one line for what a person did wrong."""
    arbiter = os.getpid()
    code: int = ExitCode.UNEXPECTED
    try:
        code = _run(handover, handover_fd)
    except SystemExit as end:
        code = exit_code_of(end)
        raise
    finally:
        if os.getpid() == arbiter:  # every child leaves by here as well
            limit_wait_of_arbiter(code)
    return code


def _run(handover: Handover, handover_fd: int) -> int:
    try:
        require_version()
        app = open_application(handover)
        if handover.action == "print-config":
            from django_workerguard.server.configuration.listing import describe

            show(describe(app), flush=True)
            return ExitCode.OK
        app.warnings += require_contract(app.cfg.worker_class)
        if handover.action == "check":
            from django_workerguard.server.check import (
                check,
            )  # here, because a server that serves needs none of it

            return check(app)
        _serve(app, handover_fd)
    except WorkerguardError as error:
        leave_word(str(error))
        return show_error(error)
    return ExitCode.OK


def _serve(app: GuardedApplication, handover_fd: int) -> None:
    keep_sources()  # after the worker class has been imported, and what it imports
    gunicorn.workers.base.WorkerTmp = SeatBeat  # the heartbeat lives in the seat: no temporary file
    pid = os.getpid()
    opened = _open(app, pid)
    _return_memory()
    try:
        GuardedArbiter(app, opened, handover_fd=handover_fd).run()
    finally:
        if os.getpid() == pid:
            remove_files(opened.board)


def _return_memory() -> None:
    """Return to the system what the start has used and freed: glibc keeps it, and each worker would inherit it."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _open(app: GuardedApplication, pid: int) -> Opened:
    options = app.guard.options
    name = server_name(options.name, Path(app.handover.project))
    layout = layout_for(app.most_workers, surge=options.surge)
    try:
        uid = os.geteuid()
        # workers of another user have to pass through to the control socket, which is theirs
        mode = 0o711 if uid == 0 and app.cfg.uid != 0 else 0o700
        opened = open_board(layout, name, options.run_dir, environ=os.environ, uid=uid, pid=pid, mode=mode)
    except ConfigurationError as error:
        where = app.guard.sources[error.option.replace("-", "_")] if error.option else None
        raise ConfigurationError(error.problem, option=error.option, where=where, hint=error.hint) from None
    write_bounds(opened.board, options.duration_buckets)
    return opened


def remove_files(board: Board) -> None:
    """Remove the files of a server that could not remove them itself. The path may belong to another server by now."""
    if board.path is not None and board.is_at_its_path():
        for path in (board.path, board.path.with_suffix(".sock")):
            with contextlib.suppress(OSError):
                path.unlink()
