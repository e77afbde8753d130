"""A worker that its mold has forked waits until the arbiter has taken it in, and ends if there is no arbiter any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

# an arbiter that forks a process in between, which forks a worker; the worker keeps the pipe of this program open
FAMILY = """
import os, sys, time
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.server.workers import mold
from django_workerguard.worker.after_fork import become_subreaper
from django_workerguard.worker.seat_handle import SeatHandle

mold.ADOPTION_TIMEOUT = 3600.0
become_subreaper()
board = Board.create(Layout(seats=1, slots=1), None)
handle = SeatHandle(
    board=board, seat=0, slot=1, generation=1, wake_fd=-1, dump_fd=-1, request=None, options=None
)
arbiter = os.getpid()
stay, leave = os.pipe()
if os.fork() == 0:
    between = os.getpid()
    if os.fork() == 0:
        os.close(leave)
        print(between, flush=True)
        mold.wait_for_adoption(handle, arbiter, between=between)
        print("adopted", flush=True)
        os._exit(0)
    if {stays}:
        os.close(leave)
        os.read(stay, 1)  # until the arbiter has ended
    os._exit(0)
time.sleep(3600)
"""


@pytest.mark.parametrize("stays", [False, True])
def test_a_worker_whose_arbiter_has_ended_ends_at_once(stays):
    program = textwrap.dedent(FAMILY).replace("{stays}", str(stays))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as arbiter:
        arbiter.stdout.readline()
        os.kill(arbiter.pid, signal.SIGKILL)
        assert arbiter.stdout.read() == "", "the worker has ended, and was not adopted"
