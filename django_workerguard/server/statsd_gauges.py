"""The metrics that gunicorn's own arbiter logs and statsd receives. Runs in the arbiter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Gauges:
    """``gunicorn.workers`` and, if it is enabled, ``gunicorn.backlog``, as gunicorn's `manage_workers` logs them."""

    def __init__(self) -> None:
        self._workers: int | None = None  # as logged last

    def send(self, log: Any, *, workers: int, listeners: Iterable[Any] | None) -> None:
        """Log what has changed. ``listeners`` None: the backlog is not wanted."""
        if workers != self._workers:
            self._workers = workers
            log.debug("%d workers", workers, extra=_metric("gunicorn.workers", workers, "gauge"))
        if listeners is not None:
            backlog = sum(max(0, listener.get_backlog() or 0) for listener in listeners)
            log.debug("socket backlog: %d", backlog, extra=_metric("gunicorn.backlog", backlog, "histogram"))


def _metric(name: str, value: int, kind: str) -> dict[str, Any]:
    return {"metric": name, "value": value, "mtype": kind}
