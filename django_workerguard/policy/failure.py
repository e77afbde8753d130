"""What kind of failure a failed load was. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# causes that may be gone at the next try; names, since psycopg's and Django's classes differ
TRANSIENT = frozenset({"MemoryError", "OSError", "OperationalError", "InterfaceError", "TimeoutError"})


MEMORY = frozenset({"MemoryError"})


def is_want_of_memory(class_names: Iterable[str]) -> bool:
    """Say whether a failure proves a want of memory, from the names of its classes and those of its causes."""
    return not MEMORY.isdisjoint(class_names)


def is_transient(class_names: Iterable[str]) -> bool:
    """Say whether a failure may pass by itself, from the names of its classes and those of its causes."""
    return not TRANSIENT.isdisjoint(class_names)
