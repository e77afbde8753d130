"""Processes that the kernel does not end although they are killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

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
