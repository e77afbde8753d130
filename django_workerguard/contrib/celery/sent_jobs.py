"""Which jobs a child has read and not accepted before it died: a pure decision. Runs in Celery's main process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 2.0  # seconds between the reading of a job and its acceptance, the next thing that a child does


@dataclass
class Sent:
    """A job on its way to a child; times in seconds of one clock."""

    message: Any
    at: float
    read_by: float | None = None  # when it was known to have been read


@dataclass
class SentJobs:
    """The jobs that were sent through a queue that all children share, in their order, until one accepts them.

    A child accepts a job before it begins with it, so a job that died before that can be sent again.
    """

    jobs: dict[int, Sent] = field(default_factory=dict)

    def sent(self, job: int, message: Any, now: float) -> None:
        self.jobs.pop(job, None)  # sent again, it is behind the others
        self.jobs[job] = Sent(message, now)

    def lost(
        self, accepted: Callable[[int], bool], empty: Callable[[], bool], died: float, now: float
    ) -> list[Any]:
        """Return the messages of the jobs that died with a child that had read them, and forget these jobs.

        `accepted` says of a job whether a child has accepted it or nobody waits for it; `empty` says whether all that was
        sent has been read; `died` is when the last child died.
        """
        waiting: dict[int, Sent] = {}
        read: list[Sent] = []
        for job, sent in list(self.jobs.items()):
            if accepted(job):
                del self.jobs[job]
                read = list(waiting.values())  # what was sent before it was read before it
            else:
                waiting[job] = sent
        if waiting and empty():
            read = list(waiting.values())
        for sent in read:
            if sent.read_by is None:
                sent.read_by = now
        lost = [
            job
            for job, sent in waiting.items()
            if sent.read_by is not None and now - sent.read_by >= PATIENCE and died >= sent.at
        ]
        return [self.jobs.pop(job).message for job in lost]
