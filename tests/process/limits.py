"""Limits of a living process, set from outside, and which children it has."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.components import leave_out

STRANGER = 60_000 + os.getpid() % 5_000  # a user that nobody else is, so that its processes can be counted
AS_STRANGER = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def limit_processes(pid: int, soft: str) -> None:
    subprocess.run([*AS_STRANGER, "prlimit", "--pid", str(pid), f"--nproc={soft}:"], check=True)


def limit(pid: int, what: int, soft: int) -> None:
    """Set the soft limit of a living process, as ``prlimit --pid`` does."""
    resource.prlimit(pid, what, (soft, resource.prlimit(pid, what)[1]))


def address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def limit_file(group: Path) -> Path:
    v2 = group / "memory.max"
    return v2 if v2.exists() else group / "memory.limit_in_bytes"


def a_python_that_nobody_may_run() -> str:
    """Return an interpreter that the user nobody may run: this one, or if only root can reach it, the system's of the same version."""
    ours = Path(sys.executable).resolve()
    if all(part.stat().st_mode & 0o001 for part in ours.parents):
        return sys.executable
    systems = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(systems).exists():
        leave_out(f"{ours} is not for nobody to run, and there is no {systems}")
    return systems


# attaches to a process like a debugger, which keeps the kernel from ending it, until a line arrives
TRACER = """
import ctypes, sys
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long] * 4
print(ptrace(16, int(sys.argv[1]), 0, 0), flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def traced(pid: int) -> Iterator[None]:
    """Keep the kernel from ending a process that is killed; skip if this user may not trace it."""
    command = [sys.executable, "-c", TRACER, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tracer:
        try:
            if tracer.stdout.readline() != "0\n":
                pytest.skip("this user may not trace a process")
            yield
        finally:
            tracer.kill()
