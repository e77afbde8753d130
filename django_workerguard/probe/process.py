"""The identity and the memory of a process, from /proc. Runs in any process."""

from __future__ import annotations

import os

PROC = "/proc"
EXITING = 0x4  # PF_EXITING, of the flags in /proc/PID/stat
KILL_PENDING = 1 << 8  # SIGKILL, in a mask of signals


def start_time(pid: int, *, proc: str = PROC) -> int:
    """Return when a process started, in clock ticks since boot; 0 if it is gone or a zombie.

    A pid can be reused; a pid together with a start time identifies a process.
    """
    try:
        with open(f"{proc}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def parent(pid: int, *, proc: str = PROC) -> int:
    """Return the pid of a process's parent; 0 if the process is gone."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def cpu_ns(pid: int, *, proc: str = PROC) -> int:
    """Return the CPU time that a process has used, in nanoseconds, in steps of a clock tick; 0 if it is gone."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0


def started_at(pid: int, *, proc: str = PROC) -> float | None:
    """Return when a process started, in Unix seconds; None if it is gone or the time is unknown."""
    ticks = start_time(pid, proc=proc)
    try:
        with open(f"{proc}/stat", encoding="ascii") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime"))
    except (OSError, StopIteration, ValueError):
        return None
    return boot + ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def is_alive(pid: int, started: int, *, proc: str = PROC) -> bool:
    """Return whether the process with this pid is alive and has this start time."""
    return pid > 0 and started > 0 and start_time(pid, proc=proc) == started


def is_dying(pid: int, *, proc: str = PROC) -> bool:
    """Return whether a process is ending, has ended, or has a SIGKILL that it has not taken yet."""
    try:
        with open(f"{proc}/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] in b"ZX" or int(fields[6]) & EXITING:
            return True
        with open(f"{proc}/{pid}/status", "rb") as file:
            pending = [line.split()[1] for line in file if line.startswith((b"SigPnd:", b"ShdPnd:"))]
        return any(int(signals, 16) & KILL_PENDING for signals in pending)
    except FileNotFoundError:
        return True
    except (OSError, IndexError, ValueError):
        return False


def resident_bytes(pid: int, *, proc: str = PROC) -> int:
    """Return the resident memory of a process in bytes; 0 if it is gone."""
    try:  # without a file object, because the arbiter calls this for every worker each second
        fd = os.open(f"{proc}/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 256).split()[1]) * os.sysconf("SC_PAGE_SIZE")
        finally:
            os.close(fd)
    except (OSError, IndexError, ValueError):
        return 0
