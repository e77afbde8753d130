"""Fork a worker from the mold, so that it becomes a child of the arbiter. Runs in the mold.

The mold forks a process in between, which forks the worker and ends; the kernel then makes the worker a child of the
arbiter, which is a child subreaper. Python's fork hooks must run exactly once, and in the right processes: the hooks
before the fork and those of the parent in the mold, those of the child in the worker. `os.fork`, called twice, would run
them twice, so this calls `fork` of the C library between the hooks; that also runs the handlers of `pthread_atfork`,
without which OpenBLAS hangs in every child.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import struct
from typing import Any

from django_workerguard.values import value_class

ANSWER = struct.Struct("q")  # the worker's pid; negative: the error number of the second fork


@value_class
class Forked:
    """What a fork has made, as its two sides see it."""

    worker: int = 0  # the worker's pid; 0 in the worker itself
    between: int = 0  # in the worker: the process that forked it, which is about to end


@functools.cache
def _c() -> Any:
    """Return the functions of the C library and of the interpreter; PyDLL, because the GIL must stay held."""
    return ctypes.PyDLL(None, use_errno=True)


def double_fork() -> Forked:
    """Fork a worker, and return in the mold and in the worker. Raises OSError where there can be no process."""
    c = _c()
    with mmap.mmap(-1, ANSWER.size) as answer:
        c.PyOS_BeforeFork()
        between = c.fork()
        if between == 0:
            own = os.getpid()
            worker = c.fork()
            if worker != 0:
                ANSWER.pack_into(answer, 0, worker if worker > 0 else -ctypes.get_errno())
                c._exit(0)
            c.PyOS_AfterFork_Child()
            return Forked(between=own)
        refused = ctypes.get_errno()
        c.PyOS_AfterFork_Parent()
        if between < 0:
            raise OSError(refused, os.strerror(refused))
        _wait_for(between)
        (pid,) = ANSWER.unpack_from(answer, 0)
    if pid <= 0:
        number = -pid or errno.ECHILD  # ECHILD: the process in between was killed before it could answer
        raise OSError(number, os.strerror(number))
    return Forked(worker=int(pid))


def probe_fork() -> None:
    """Fork once, with all hooks, a process that ends at once. Raises OSError where there can be no process."""
    c = _c()
    c.PyOS_BeforeFork()
    child = c.fork()
    if child == 0:
        c._exit(0)
    refused = ctypes.get_errno()
    c.PyOS_AfterFork_Parent()
    if child < 0:
        raise OSError(refused, os.strerror(refused))
    _wait_for(child)


def _wait_for(pid: int) -> None:
    """Wait for a child to end; not with `os.waitpid`, which gevent replaces by one that needs its hub."""
    while _c().waitpid(pid, None, 0) < 0 and ctypes.get_errno() == errno.EINTR:
        pass
