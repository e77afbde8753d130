"""Signals that are meant for the arbiter. Runs in every other process of the server, and in a server that starts.

A process group, a closed terminal or ``systemctl kill`` sends them to each process.
"""

from __future__ import annotations

import signal

# what the arbiter does with them is no other process's affair; SIGUSR1 is for workers too, which reopen their logs
FOR_ARBITER = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


def ignore_signals(*numbers: int) -> None:
    """Ignore signals from now on, without interrupting a system call."""
    for number in numbers:
        signal.signal(number, ignore_signal)
        signal.siginterrupt(number, False)


def ignore_signal(_number: int, _frame: object) -> None:
    """Ignore a signal. This is not SIG_IGN, because programs that the process starts would inherit that."""
