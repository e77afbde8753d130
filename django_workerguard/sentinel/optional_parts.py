"""Parts of a load that the sentinel chooses by itself: a failure there is reported, never raised. Runs in the worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from django_workerguard.config.load_request import Skipped
from django_workerguard.config.redact import describe_briefly
from django_workerguard.policy.failure import is_want_of_memory
from django_workerguard.worker.load import class_names

MOST = 8  # parts of one step that are reported; a seat's report has 12 KiB for everything


class OptionalParts:
    """Collects the parts that could not be loaded, of one step."""

    def __init__(self) -> None:
        self._skipped: list[Skipped] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Load a part inside this; whatever it raises is kept as the reason why the part was skipped.

        A want of memory is raised on: it says nothing about the part, and the next try may have the memory.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if is_want_of_memory(class_names(error)):
                raise
            self._skipped.append(Skipped(name, *describe_briefly(error)))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(self._skipped[:MOST])
