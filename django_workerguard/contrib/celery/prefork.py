"""Celery's prefork pool, guarded: both of its kinds, the event loop's and the blocking one. Runs in Celery's main process.

The module is called as Celery's is: Celery's Django fix-up looks for the word in the pool's module.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from celery.concurrency import prefork
from celery.utils.log import get_logger

from django_workerguard.conf import settings_layer
from django_workerguard.config.output import show_error
from django_workerguard.config.resolve import resolve_pool
from django_workerguard.contrib.celery import remote_control  # noqa: F401 - registers them
from django_workerguard.contrib.celery.consumer_pulse import Pulse
from django_workerguard.contrib.celery.pool_arbiter import PoolArbiter, open_pool_board
from django_workerguard.contrib.celery.pools import TICK, GuardedAsynPool, GuardedBlockingPool
from django_workerguard.contrib.celery.versions import require_supported
from django_workerguard.errors import ConfigurationError, WorkerguardError
from django_workerguard.sentinel import describe_failure

LINGER = 5.0  # seconds that a closed pool gets to end after its last task
KILOBYTE = 1024

logger = get_logger("celery.workerguard")


class TaskPool(prefork.TaskPool):
    """``worker_pool``: Celery's prefork pool, guarded."""

    Pool = GuardedAsynPool
    BlockingPool = GuardedBlockingPool

    def __init__(self, *arguments: Any, **options: Any) -> None:
        require_supported()
        super().__init__(*arguments, **options)
        try:
            self._prepare()
        except WorkerguardError as error:
            raise SystemExit(show_error(error)) from None

    def _prepare(self) -> None:
        if not self.forking_enable:
            raise ConfigurationError(
                "the guarded pool forks its children",
                option="worker_pool_start_method",
                hint="Set it to 'fork', or remove guard(app) or CELERY_WORKER_POOL to run unguarded.",
            )
        resolved = resolve_pool(settings_layer(), os.environ)
        _, node = self.options["initargs"]
        peak = self.options.pop("max_memory_per_child", None)
        processes = self.limit or os.cpu_count() or 1
        self.guarded = PoolArbiter(
            resolved.options,
            open_pool_board(resolved.options, node, processes=processes),
            logger,
            node=node,
            processes=processes,
            rss_limit=int(peak or 0) * KILOBYTE,
        )
        if peak and not resolved.options.reload_on_rss:
            logger.info(
                "max_memory_per_child is used as reload-on-rss, which compares a child's current memory, not its peak"
            )
        self.app.steps["consumer"].add(Pulse)
        describe_failure(Exception())  # imports what else every child that fails would import by itself

    def on_start(self) -> None:
        self.options["arbiter"] = self.guarded
        # Celery collects garbage before each fork: what is there for good need not be gone through each time
        gc.collect()
        gc.freeze()
        super().on_start()

    def did_start_ok(self) -> bool:
        """Return True: the policy decides about a load that fails."""
        return True

    def look_around(self) -> None:
        """Look after the children from wherever Celery's main thread waits."""
        if self._pool is not None:
            self._pool.look_around()

    def on_stop(self) -> None:
        """Let the children finish their tasks, and end. A child that does not end is not waited for."""
        pool = self._pool
        self.guarded.stopping()
        if pool is None:
            return
        with _bounded(pool, self.guarded):
            super().on_stop()
        self.guarded.close()

    def on_terminate(self) -> None:
        self.guarded.stopping()
        super().on_terminate()
        self.guarded.close()

    def on_close(self) -> None:
        self.guarded.stopping()
        super().on_close()


@contextlib.contextmanager
def _bounded(pool: Any, arbiter: PoolArbiter) -> Iterator[None]:
    """Bound the end of a pool: a child that has no task and does not leave is killed, and its pipes are closed.

    Celery waits without end for a child that still loads, for a child that died while it was writing, and
    for jobs that no child will do.
    """
    over = threading.Event()
    mercy = arbiter.options.worker_reload_mercy
    started = time.monotonic()

    def watch() -> None:
        idle_since = time.monotonic()
        while not over.wait(TICK):
            arbiter.publish_while_closing()
            now = time.monotonic()
            children = list(pool._pool)
            late = mercy and now - started > mercy
            busy = [child for child in children if arbiter.busy(child.pid)]
            if busy and not late:
                idle_since = now
            for child in children:
                if late or arbiter.loading(child.pid) or now - idle_since > LINGER:
                    _kill(child)
            if late or now - idle_since > LINGER:
                _hang_up(children)

    watcher = threading.Thread(target=watch, name="workerguard-end", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(timeout=2 * TICK)


def _kill(child: Any) -> None:
    with contextlib.suppress(OSError, AttributeError, TypeError):
        os.kill(child.pid, signal.SIGKILL)


def _hang_up(children: list[Any]) -> None:
    """Close the parent's copies of what dead children wrote into, so that a thread that reads there ends."""
    for child in children:
        with contextlib.suppress(OSError, AttributeError, ValueError):
            child.outq._writer.close()
