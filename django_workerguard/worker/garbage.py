"""How often Python's garbage collector runs in a process while it imports. Runs in the arbiter, in molds and in workers.

Imports allocate much that stays and little that is garbage: with Python's own threshold, 700 objects up to 3.12, the
collector takes a tenth of the CPU time of a load.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

RARELY = 10_000  # allocated objects for each collection


class _Before:
    thresholds: tuple[int, ...] = ()


def pause() -> None:
    """Collect none from now on: a collection writes to the pages of live objects, which forks then no longer share."""
    _Before.thresholds = gc.get_threshold()
    gc.set_threshold(0)


def resume() -> None:
    """Collect again in a process that was forked after `pause`, unless the site has set another threshold since."""
    if gc.get_threshold()[0] == 0:
        gc.set_threshold(*_Before.thresholds)


@contextlib.contextmanager
def collected_rarely() -> Iterator[None]:
    """Collect less often in the block. A threshold that the site sets in it stays, and so does one that is higher, or 0."""
    before = gc.get_threshold()
    if not 0 < before[0] < RARELY:
        yield
        return
    rarely = (RARELY, *before[1:])
    gc.set_threshold(*rarely)
    try:
        yield
    finally:
        if gc.get_threshold() == rarely:
            gc.set_threshold(*before)
