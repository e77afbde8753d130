"""Measure the steps of a load: time, memory, what is left behind. Runs in the worker."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from django_workerguard.config.loading import Reporter, Step
from django_workerguard.probe.process import resident_bytes

KILOBYTE = 1024
# an executor that belongs to the machinery of ASGI, not to the project's step
OWN_THREADS = ("ThreadPoolExecutor-", "asyncio_")


@contextlib.contextmanager
def measured(name: str, reporter: Reporter, *, shareable: bool = True) -> Iterator[None]:
    """Report one step of the load. A step that raises is begun and never ended."""
    reporter.begin(name)
    _reset_peak()
    pid = os.getpid()
    memory, threads, sockets = resident_bytes(pid), _threads(), _sockets()
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    reporter.end(
        Step(
            name=name,
            seconds=round(seconds, 6),
            peak_bytes=max(0, _peak() - memory),
            retained_bytes=max(0, resident_bytes(pid) - memory),
            threads_left=max(0, _threads() - threads),
            sockets_left=max(0, _sockets() - sockets),
            shareable=shareable,
        )
    )


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KILOBYTE
    return 0


def _threads() -> int:
    return sum(not thread.name.startswith(OWN_THREADS) for thread in threading.enumerate())


def _sockets() -> int:
    count = 0
    with contextlib.suppress(OSError):
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                count += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    return count
