"""A failed load: what it reported, and of what kind its failure was. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from django_workerguard.values import value_class

# causes that may be gone at the next try; names, since psycopg's and Django's classes differ
TRANSIENT = frozenset({"MemoryError", "OSError", "OperationalError", "InterfaceError", "TimeoutError"})
MEMORY = frozenset({"MemoryError"})
LONGEST = 200  # characters of a failure in one line


@value_class
class Failure:
    """Why a load failed: the name of the exception, the signal or the rule; its message; the step; the traceback."""

    kind: str
    message: str = ""
    step: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        if not self.kind:  # a report that memory ran out for
            return ""
        step = f" in step {self.step}" if self.step else ""
        return f"the load failed{step}: {self.kind}: {self.message}"[:LONGEST]


def is_want_of_memory(class_names: Iterable[str]) -> bool:
    """Return whether a failure proves that memory ran out, from the names of its classes and those of its causes."""
    return not MEMORY.isdisjoint(class_names)


def is_transient(class_names: Iterable[str]) -> bool:
    """Return whether a failure may pass by itself, from the names of its classes and those of its causes."""
    return not TRANSIENT.isdisjoint(class_names)
