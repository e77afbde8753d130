"""What makes a loaded process unfit to be forked, as a value. Runs in the mold."""

from __future__ import annotations

from enum import StrEnum

from django_workerguard.values import value_class


class HazardKind(StrEnum):
    """Kinds of hazards: short names for metrics, journal and `explain`."""

    THREAD = "thread"  # that runs Python code
    NATIVE_THREAD = "native-thread"
    CHILD_PROCESS = "child-process"
    SOCKET = "socket"
    PIPE = "pipe"
    EVENT_DESCRIPTOR = "event-descriptor"  # epoll, eventfd, timerfd, signalfd, inotify, io_uring
    OPEN_FILE = "open-file"  # for writing, and not for appending
    GREENLET = "greenlet"
    EVENT_LOOP = "event-loop"
    UNFIT_LIBRARY = "library"
    NOT_EXAMINED = "not-examined"  # the scan could not look at something


@value_class
class Hazard:
    """One thing that would break, or be shared by mistake, if workers were forked from this process."""

    kind: HazardKind
    text: str  # for people: what it is, and where

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
