"""What kind of failure a failed load was. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# causes that may be gone at the next try; names, since psycopg's and Django's classes differ
TRANSIENT = frozenset({"MemoryError", "OSError", "OperationalError", "InterfaceError", "TimeoutError"})


def is_transient(class_names: Iterable[str]) -> bool:
    """Say whether a failure may pass by itself, from the names of its classes and those of its causes."""
    return not TRANSIENT.isdisjoint(class_names)
