"""The monitor's process, from its start to its end. Runs in the monitor.

It has the listener and the scoreboard as descriptors, and its settings on standard input. It ends with the arbiter.
"""

from __future__ import annotations

import hmac  # noqa: F401 - used later, when this user may not read the files of Python any more
import json
import os
import signal
import socket
import sys

from django_workerguard.config.arbiter_signals import FOR_ARBITER, ignore_signals
from django_workerguard.config.memfd import read_all
from django_workerguard.config.output import say
from django_workerguard.errors import ExitCode, WorkerguardError
from django_workerguard.monitor.answers import Answers
from django_workerguard.monitor.http import POLL, Server
from django_workerguard.scoreboard.board import Board
from django_workerguard.worker.after_fork import die_with_parent

SETTINGS, LISTENER, BOARD = 0, 3, 4  # descriptors


def main() -> None:
    """Serve until the arbiter ends. Ends the process if it cannot."""
    try:
        _serve()
    except (WorkerguardError, OSError) as error:
        say(f"Error: the monitor cannot serve: {error}")
        sys.exit(ExitCode.UNEXPECTED)


def _serve() -> None:
    settings = json.loads(read_all(SETTINGS))
    with open(os.devnull) as devnull:
        os.dup2(devnull.fileno(), SETTINGS)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ignore_signals(signal.SIGUSR1, *FOR_ARBITER)
    board, listener = Board.attach(BOARD), socket.socket(fileno=LISTENER)
    listener.setblocking(False)
    _become(settings["uid"], settings["gid"])
    parent = settings["parent"]
    if not die_with_parent(parent, by=signal.SIGKILL):  # the address must be free for the next server at once
        return
    answers = Answers(
        board,
        token=settings["token"],
        local=settings["local"],
        project=settings["project"],
        run_dir=settings["run_dir"],
    )
    server = Server(listener, answers.answer, between=lambda: _end_without(parent))
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.leave())
    server.serve_forever(poll_interval=POLL)
    server.server_close()


def _become(uid: int, gid: int) -> None:
    """Become the workers' user, if root has started the server."""
    if os.geteuid() == 0 and (uid or gid):
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)


def _end_without(parent: int) -> None:
    """End the process if its parent is gone, where the kernel was not allowed to do it."""
    if os.getppid() != parent:
        os._exit(0)
