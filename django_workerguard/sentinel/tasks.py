"""The threads and the child processes of this process. Runs in the mold.

Threads are looked up by their ids in the kernel: Python knows only its own, and under gevent not even those.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from django_workerguard.sentinel.concurrency import is_patched, place
from django_workerguard.sentinel.hazard import Hazard, HazardKind

TASKS = Path("/proc/self/task")
EXITING = 0x4  # PF_EXITING, in the flags of /proc/PID/stat
STATE, PARENT, FLAGS = 0, 1, 6  # fields of /proc/PID/stat after the name


def thread_ids() -> frozenset[int]:
    """Return the ids of all threads but the main one."""
    return frozenset(int(name) for name in os.listdir(TASKS)) - {os.getpid()}


def is_alive(thread: int) -> bool:
    """Return whether a thread is there and not about to end."""
    fields = _stat(TASKS / str(thread))
    return bool(fields) and not int(fields[FLAGS]) & EXITING


def described_threads(threads: Iterable[int]) -> Iterator[Hazard]:
    """Yield a hazard for each thread: Python's by name, file and line, native ones by the kernel's name."""
    named = {} if is_patched("threading") else {thread.native_id: thread for thread in threading.enumerate()}
    frames = sys._current_frames()
    unnamed = list(_unnamed_frames(frames, {thread.ident for thread in named.values()}))
    for number in sorted(threads):
        if thread := named.get(number):
            yield Hazard(HazardKind.THREAD, f"{thread.name}, which runs {_code(thread, frames)}")
        elif unnamed:
            yield Hazard(HazardKind.THREAD, f"{_comm(number)}, which runs {_outermost(unnamed.pop())}")
        else:
            yield Hazard(HazardKind.NATIVE_THREAD, f"{_comm(number)} (thread {number})")


def _unnamed_frames(frames: dict[int, FrameType], named: set[int | None]) -> Iterator[FrameType]:
    for ident, frame in frames.items():
        if ident not in named and not _is_own(frame):
            yield frame


def _is_own(frame: FrameType) -> bool:
    current: FrameType | None = sys._getframe()
    while current is not None:
        if current is frame:
            return True
        current = current.f_back
    return False


def _code(thread: threading.Thread, frames: dict[int, FrameType]) -> str:
    function = getattr(thread, "function", None)  # of a threading.Timer
    if code := getattr(function, "__code__", None):
        return place(code.co_filename, code.co_firstlineno)
    frame = frames.get(thread.ident or 0)
    if frame is not None and frame.f_code.co_filename != threading.__file__:
        return _outermost(frame)
    target = getattr(thread, "_target", None)  # written in C: it has no frame
    names = (getattr(target, name, None) for name in ("__module__", "__qualname__"))
    return ".".join(filter(None, names)) or type(thread).__qualname__


def _outermost(frame: FrameType) -> str:
    """Return file and line of the outermost frame, without those of the module `threading`."""
    found, current = frame, frame.f_back
    while current is not None and current.f_code.co_filename != threading.__file__:
        found, current = current, current.f_back
    return place(found.f_code.co_filename, found.f_lineno)


def _comm(thread: int) -> str:
    return _name(TASKS / str(thread), default="a thread that has just ended")


def _name(directory: Path, *, default: str) -> str:
    """Return the kernel's name of a process or thread."""
    try:
        return (directory / "comm").read_text(errors="replace").strip()
    except OSError:
        return default


def child_processes() -> frozenset[int]:
    """Return the pids of the children of this process that have not ended."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return frozenset()
    return frozenset(pid for pid in _children() if _stat(Path("/proc", str(pid)))[:1] not in ([], ["Z"]))


def _children() -> Iterator[int]:
    try:
        for task in os.listdir(TASKS):
            yield from map(int, (TASKS / task / "children").read_text().split())
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        me = str(os.getpid())
        for name in os.listdir("/proc"):
            if name.isdigit() and _stat(Path("/proc", name))[PARENT : PARENT + 1] == [me]:
                yield int(name)


def described_children(pids: Iterable[int]) -> Iterator[Hazard]:
    """Yield a hazard for each child process: its pid, and its command line or else its name."""
    own = _command("self")
    for pid in sorted(pids):
        try:
            command = _command(str(pid))
        except OSError:
            continue  # it has just ended
        # the server's own command line would mislead
        program = "a fork of the process that loads" if command == own else command[:120]
        # there is none yet when `Popen` returns: show the name, as `ps` does
        program = program or f"[{_name(Path('/proc', str(pid)), default='a process that has just ended')}]"
        yield Hazard(HazardKind.CHILD_PROCESS, f"pid {pid}: {program}")


def _command(process: str) -> str:
    """Return the command line of a process. Raises OSError."""
    return (
        Path("/proc", process, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    )


def _stat(directory: Path) -> list[str]:
    """Return the fields of a process or thread after its name; empty if it is gone."""
    try:
        return (directory / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
