"""Report when an executor of the event loop makes no progress while calls wait for it. Runs in the worker.

Django gives each request that runs synchronous code a thread of its own, so there is no pool of these threads that could
be full. Two others are shared by all requests of a worker:

- the loop's default executor, which serves `asyncio.to_thread`, `sync_to_async(thread_sensitive=False)` and the look-up
  of host names
- asgiref's single thread, which serves `sync_to_async` outside of a request of Django's, as in Channels' consumers
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.layout import Seat
from django_workerguard.worker.seat_handle import SeatHandle


def watch_executors(handle: SeatHandle) -> None:
    """Report the running loop's default executor, and asgiref's thread, in the worker's seat.

    The loop gets a default executor like the one that it would make itself.
    """
    executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
    watch(executor, handle.board.words, handle.base + Seat.LOOP_EXECUTOR)
    asyncio.get_running_loop().set_default_executor(executor)
    asgiref = sys.modules.get("asgiref.sync")
    shared = getattr(getattr(asgiref, "SyncToAsync", None), "single_thread_executor", None)
    if isinstance(shared, ThreadPoolExecutor):
        watch(shared, handle.board.words, handle.base + Seat.SHARED_THREAD)


def watch(executor: ThreadPoolExecutor, words: memoryview, at: int) -> None:
    """Have an executor write a word: since when calls have waited and none has begun (monotonic ns); 0: none waits."""
    queue, submit = _Queue(words, at), executor.submit

    def counted(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        queue.enter()
        try:
            future = submit(queue.run, fn, *args, **kwargs)
        except BaseException:  # it was shut down, or no thread can be started
            queue.leave()
            raise
        future.add_done_callback(queue.leave_if_cancelled)
        return future

    executor.submit = counted  # type: ignore[method-assign]


class _Queue:
    """The calls that wait for an executor."""

    def __init__(self, words: memoryview, at: int) -> None:
        self._lock = threading.Lock()
        self._words = words
        self._at = at
        self._waiting = 0

    def enter(self) -> None:
        with self._lock:
            self._waiting += 1
            if self._waiting == 1:
                self._words[self._at] = monotonic_ns()

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._waiting -= 1
            self._words[self._at] = monotonic_ns() if self._waiting else 0
        return fn(*args, **kwargs)

    def leave(self) -> None:
        with self._lock:
            self._waiting -= 1
            if not self._waiting:
                self._words[self._at] = 0

    def leave_if_cancelled(self, future: Future[Any]) -> None:
        """Take out a call that was cancelled while it waited; one that has begun cannot be cancelled."""
        if future.cancelled():
            self.leave()
