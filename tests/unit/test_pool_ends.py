"""Each way in which Celery ends a child tells the child first: it leaves a SIGTERM to its whole group to the main process."""

from __future__ import annotations

from types import SimpleNamespace

from django_workerguard.contrib.celery.pools import let_be_ended


def test_a_child_knows_that_a_terminate_is_meant_for_it():
    """Celery calls it for a time limit, at a cold shutdown, and for a child whose pipe is damaged."""
    seen: list[str] = []
    process = SimpleNamespace(pid=7, terminate=lambda: seen.append("SIGTERM"))
    let_be_ended(process, lambda pid: seen.append(f"order to {pid}"))
    process.terminate()
    assert seen == ["order to 7", "SIGTERM"]
