"""Faults that are switched on from outside, by files, and act in workers only."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
from pathlib import Path

from django_workerguard import current_worker


def taken(place: str) -> str | None:
    """Return the kind of fault to act out here, counting down where it has a count."""
    directory = os.environ.get("GUINEA_FAULTS")
    anywhere = "GUINEA_FAULTS_ANYWHERE" in os.environ  # under servers that are not ours
    if directory is None or (current_worker() is None and not anywhere):
        return None
    try:
        with Path(directory, place).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            text = file.read()
            kind, _, times = text.partition(" ")
            if not times:
                return kind
            if int(times) <= 0:
                return None
            # in one write of the same length: the process may be killed at any moment
            os.pwrite(file.fileno(), f"{kind} {int(times) - 1}".ljust(len(text)).encode(), 0)
            return kind
    except FileNotFoundError:
        return None


def half_way(place: str) -> None:
    """Die at the first import of a module, in a way that leaves it broken in this process for ever."""
    if taken(place):
        _Broken.for_ever = True
    if _Broken.for_ever:
        raise ImportError("the module was left half imported")


class _Broken:
    for_ever = False


def fault(place: str) -> None:
    """Fail here if that was asked for."""
    match taken(place):
        case None:
            pass
        case "memory":
            raise MemoryError("as if there were no memory")
        case "import":
            import a_module_that_does_not_exist  # noqa: F401
        case "uwsgi":
            import uwsgi  # noqa: F401
        case "system-exit":
            raise SystemExit(7)
        case "interrupt":
            raise KeyboardInterrupt
        case "exception":
            raise RuntimeError("secret-of-the-database is wrong")
        case "exit":
            os._exit(5)
        case "exit-0":
            os._exit(0)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(60)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            while True:
                time.sleep(3600)
        case "hang-in-c":
            # all signals blocked, and the interpreter never comes back
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            ctypes.PyDLL(None).sleep(3600)
        case "slow":
            time.sleep(1.0)
        case "wait":  # until the fault is cleared
            while Path(os.environ["GUINEA_FAULTS"], place).exists():
                time.sleep(0.005)
        case other:
            raise AssertionError(f"no such fault: {other}")
