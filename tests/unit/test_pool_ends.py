"""Each way in which Celery ends a child tells the child first: it leaves a SIGTERM to its whole group to the main process."""

from __future__ import annotations

import queue
import time
from types import SimpleNamespace

from billiard.pool import ACK, RUN, ApplyResult

from django_workerguard.contrib.celery.pools import GuardedBlockingPool, let_be_ended


def test_a_child_knows_that_a_terminate_is_meant_for_it():
    """Celery calls it for a time limit, at a cold shutdown, and for a child whose pipe is damaged."""
    seen: list[str] = []
    process = SimpleNamespace(pid=7, terminate=lambda: seen.append("SIGTERM"))
    let_be_ended(process, lambda pid: seen.append(f"order to {pid}"))
    process.terminate()
    assert seen == ["order to 7", "SIGTERM"]


def test_a_job_whose_acceptance_is_read_after_its_child_was_cleared_away_is_lost():
    """billiard looks for lost jobs only when a child goes, and by then this one was not accepted."""
    pool = object.__new__(GuardedBlockingPool)
    pool._pool = [SimpleNamespace(pid=11)]
    pool._cache = {}
    by_the_gone, by_one_that_lives, unaccepted = (
        ApplyResult(pool._cache, None, lost_worker_timeout=10) for _ in range(3)
    )
    by_the_gone._ack(None, 0.0, 12, None)
    by_one_that_lives._ack(None, 0.0, 11, None)
    pool._mark_lost_jobs()
    assert by_the_gone._worker_lost
    assert not by_one_that_lives._worker_lost
    assert not unaccepted._worker_lost
    since = by_the_gone._worker_lost
    pool._mark_lost_jobs()
    assert by_the_gone._worker_lost == since, "the time is that at which it was found"


def test_a_job_whose_acceptance_waits_to_be_read_is_not_sent_again():
    """The thread that reads results may be in a callback, which writes to a slow broker or result store."""
    pool = object.__new__(GuardedBlockingPool)
    pool._pool, pool._cache, pool._state, pool._taskqueue = [], {}, RUN, queue.Queue()
    pool._setup_queues()
    accepted = ApplyResult(pool._cache, None, lost_worker_timeout=10)
    now = time.monotonic()
    pool._sent.sent(accepted._job, "message", now - 10)
    pool._sent.jobs[accepted._job].read_by = now - 5
    pool._last_death = now
    pool._outqueue.put((ACK, (accepted._job, None, 0.0, 11, None)))
    pool._join_exited_workers()
    assert pool._taskqueue.empty()
    pool._outqueue.get()  # it was of another job
    pool._join_exited_workers()
    assert pool._taskqueue.get_nowait() == (["message"], None)
    pool._inqueue.close()
    pool._outqueue.close()
