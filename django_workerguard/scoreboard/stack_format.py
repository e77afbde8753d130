"""What the writer and the readers of a stack dump agree on. Imports nothing heavy, because the arbiter needs it too."""

from __future__ import annotations

import signal
from dataclasses import replace
from enum import Enum

from django_workerguard.values import value_class

# Real-time signals that hardly any program uses; their default action would end the process. Python answers the first, as
# soon as the main thread runs Python. Code in C answers the second at once, and must not read the stack of a thread that
# runs Python meanwhile: it is for a worker that has not answered the first.
STACKS_SIGNAL = signal.SIGRTMAX - 5
FORCED_STACKS_SIGNAL = signal.SIGRTMAX - 6
FORCE_AFTER = 1.5  # seconds between the two; the second gets as many
PATIENCE = 2 * FORCE_AFTER  # seconds for the first line
QUIET = 0.3  # seconds without a further line, after which the rest is not waited for: the worker may run code in C
END = "-- all stacks are written"


class Step(Enum):
    """What a reader does next: ``FORCE`` asks once more, with the second signal."""

    WAIT = 0
    FORCE = 1
    DONE = 2


@value_class
class AwaitedDump:
    """The dump of a worker that was asked for its stacks, as its reader has seen it so far. Times are in seconds."""

    asked: float
    is_forced: bool = False
    size: int = 0
    grown: float = 0.0  # when it grew last

    def seen(self, dump: str, now: float) -> tuple[AwaitedDump, Step]:
        """Take in what the worker has written by now, and return what to do next."""
        if len(dump) != self.size:
            return replace(self, size=len(dump), grown=now), Step.DONE if END in dump else Step.WAIT
        if dump:
            return self, Step.DONE if now - self.grown > QUIET else Step.WAIT
        if now - self.asked < FORCE_AFTER:
            return self, Step.WAIT
        if self.is_forced:
            return self, Step.DONE
        return replace(self, asked=now, is_forced=True), Step.FORCE
