"""Whether workers can be forked from this process, and if not, why. Runs in the mold; imports no Django.

A fork copies one thread and shares every descriptor. So each worker would lack the threads that the load has started,
and would share its sockets, pipes, event loops and file positions with all the others.

Threads are not counted: some libraries stop their threads around a fork and start them again (ddtrace, grpc, OpenBLAS).
The scan forks once, and only a thread that was alive during that fork is a hazard.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from django_workerguard.sentinel.concurrency import EventLoops, described_greenlets, greenlet_ids
from django_workerguard.sentinel.descriptors import Descriptor, described_descriptors, open_descriptors
from django_workerguard.sentinel.hazard import Hazard, HazardKind
from django_workerguard.sentinel.known_libraries import unfit_libraries
from django_workerguard.sentinel.tasks import (
    child_processes,
    described_children,
    described_threads,
    is_alive,
    thread_ids,
)
from django_workerguard.worker.double_fork import probe_fork

__all__ = ["Baseline", "Hazard", "HazardKind", "hazards"]


SHORTAGES = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


@dataclass
class Baseline:
    """What the process had before the load: none of it is a hazard."""

    threads: frozenset[int] = frozenset()
    children: frozenset[int] = frozenset()
    greenlets: frozenset[int] = frozenset()
    descriptors: frozenset[Descriptor] = frozenset()
    # set by a scan: a library here stops its threads around a fork, so native event descriptors belong to it
    threads_stop_around_forks: bool = field(default=False, compare=False)

    @classmethod
    def now(cls) -> Baseline:
        """Return what this process has now. What cannot be looked at counts as nothing; `hazards` will report it."""
        baseline = cls()
        for name, look in LOOKS.items():
            try:
                setattr(baseline, name, frozenset(look()))
            except Exception:  # noqa: S112 - `hazards` looks again, and says so
                continue
        return baseline


LOOKS: dict[str, Callable[[], Iterable[object]]] = {
    "threads": thread_ids,
    "children": child_processes,
    "greenlets": greenlet_ids,
    "descriptors": open_descriptors,
}


def hazards(baseline: Baseline) -> tuple[Hazard, ...]:
    """Return everything that makes this process unfit to be forked.

    It is cheap while there is one thread, so that it can run before every fork; with more threads it forks once, with
    all hooks. A part that cannot be looked at is a hazard of its own. Raises OSError and MemoryError only if there is no
    memory, process or descriptor left for the look: that says nothing about the application.
    """
    scans: dict[str, Callable[[Baseline], Iterator[Hazard]]] = {
        "libraries": lambda _: unfit_libraries(),
        "threads": _threads,
        "child processes": _children,
        "greenlets": _greenlets,
        "descriptors": _descriptors,
    }
    return tuple(hazard for name, scan in scans.items() for hazard in _guarded(name, scan, baseline))


def _guarded(
    name: str, scan: Callable[[Baseline], Iterator[Hazard]], baseline: Baseline
) -> tuple[Hazard, ...]:
    try:
        return tuple(scan(baseline))
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in SHORTAGES:
            raise
        text = f"the {name} of the process could not be examined: {type(error).__name__}: {error}"
        return (Hazard(HazardKind.NOT_EXAMINED, text),)


def _threads(baseline: Baseline) -> Iterator[Hazard]:
    new = thread_ids() - baseline.threads
    if not new:
        return
    probe_fork()
    alive = {thread for thread in new if is_alive(thread)}
    if alive < new:
        baseline.threads_stop_around_forks = True
    yield from described_threads(alive)


def _children(baseline: Baseline) -> Iterator[Hazard]:
    yield from described_children(child_processes() - baseline.children)


def _greenlets(baseline: Baseline) -> Iterator[Hazard]:
    yield from described_greenlets(baseline.greenlets)


def _descriptors(baseline: Baseline) -> Iterator[Hazard]:
    new = open_descriptors() - baseline.descriptors
    if not new:
        return
    loops = EventLoops.of(new)
    yield from loops.hazards
    yield from described_descriptors(
        new - loops.descriptors, restarting_libraries=baseline.threads_stop_around_forks
    )
