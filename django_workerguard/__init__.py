"""A guarded pre-fork server for Django. Imports no Django: the arbiter uses this package too."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from django_workerguard.deadlines import extend_deadline, request_timeout
    from django_workerguard.worker.current import CurrentWorker, current_worker

__version__ = "0.2.0"
__all__ = ["CurrentWorker", "__version__", "current_worker", "extend_deadline", "request_timeout"]


def __getattr__(name: str) -> object:
    """Import the public names when they are first asked for: a probe needs none of them."""
    if name in ("CurrentWorker", "current_worker"):
        from django_workerguard.worker import current

        return getattr(current, name)
    if name in ("extend_deadline", "request_timeout"):
        from django_workerguard import deadlines

        return getattr(deadlines, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
