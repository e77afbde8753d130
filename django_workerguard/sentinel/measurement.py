"""Measure the steps of a load: time, memory, threads and sockets left open. Runs in the worker."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from django_workerguard.config.load_request import Reporter, Step
from django_workerguard.probe.process import resident_bytes
from django_workerguard.sentinel.leftovers import OpenResources
from django_workerguard.sentinel.optional_parts import OptionalParts

KILOBYTE = 1024
MAX_NAMED = 8  # the number of threads and sockets of one step that are listed by name


@contextlib.contextmanager
def measure_step(name: str, reporter: Reporter, *, shareable: bool = True) -> Iterator[OptionalParts]:
    """Measure and report one step of the load. The step adds each part that it skips to the `OptionalParts`.

    If the step raises, its beginning is reported and its end is not.
    """
    reporter.begin(name)
    _reset_peak()
    pid = os.getpid()
    memory, before, parts = resident_bytes(pid), OpenResources.now(), OptionalParts()
    started = time.monotonic()
    yield parts
    seconds = time.monotonic() - started
    left = OpenResources.left_since(before)
    reporter.end(
        Step(
            name=name,
            seconds=round(seconds, 6),
            peak_bytes=max(0, _peak() - memory),
            retained_bytes=max(0, resident_bytes(pid) - memory),
            threads_left=len(left.threads),
            sockets_left=len(left.sockets),
            shareable=shareable,
            left=left.unexpected()[:MAX_NAMED],
            skipped=parts.skipped,
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
