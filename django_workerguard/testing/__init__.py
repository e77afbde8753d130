"""A guarded server for a project's own tests: the class `GuardedServer`, and the pytest fixture that uses it.

pytest loads the plugin in every project, so nothing is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django_workerguard.testing.server import (
        FAULTS,
        GuardedServer,
        Reply,
        UnixConnection,
        WaitError,
        fault_probe,
    )

__all__ = ["FAULTS", "GuardedServer", "Reply", "UnixConnection", "WaitError", "fault_probe"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from django_workerguard.testing import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
