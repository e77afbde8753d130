"""Parts that the site may need, by the sentinel's guess; their failures are reported, not raised. Runs in the worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from django_workerguard.config.load_request import Skipped
from django_workerguard.config.redact import describe_briefly
from django_workerguard.policy.failure import is_want_of_memory
from django_workerguard.worker.load import class_names

MAX_REPORTED = 8  # parts of one step; a seat's report has 12 KiB for everything


class OptionalParts:
    """Collects the parts of one step that could not be loaded."""

    def __init__(self) -> None:
        self._skipped: list[Skipped] = []

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Load a part in this block; if it raises, record the error as the reason for skipping the part.

        An out-of-memory error is raised again: the part is not its cause, and the next try may have enough memory.
        """
        try:
            yield
        except (Exception, SystemExit) as error:
            if is_want_of_memory(class_names(error)):
                raise
            self._skipped.append(Skipped(name, *describe_briefly(error)))

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(self._skipped[:MAX_REPORTED])
