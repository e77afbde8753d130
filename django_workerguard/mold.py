"""Prepare a project for the mold: what must be stopped before workers are forked. Runs where the site is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django_workerguard.errors import ConfigurationError
from django_workerguard.scoreboard.layout import Seat, SeatState
from django_workerguard.worker.current import current_worker
from django_workerguard.worker.pairs import Pair, Phase, phase, register_pair

__all__ = ["pause"]


def pause(*, stop: Callable[[], Any] | None = None, start: Callable[[], Any] | None = None) -> None:
    """Register a pair: ``stop`` is called once in the mold before workers are forked, ``start`` in each of them.

    Use it for whatever does not survive a fork: threads, connections, child processes. Call it while the application
    loads, for example in the module that makes the thing, or in an AppConfig's `ready()`::

        from concurrent.futures import ThreadPoolExecutor

        from django_workerguard import mold

        executor = ThreadPoolExecutor(4)


        def stop_executor():
            executor.shutdown()


        def start_executor():
            global executor
            executor = ThreadPoolExecutor(4)


        mold.pause(stop=stop_executor, start=start_executor)

    The stops are called in reverse order of registration, the starts in order of registration, each before the worker's
    first request. If one of them raises, the load has failed.

    Without a mold (``load=lazy``, runserver, Celery, a test) nothing is ever called, so that the same code works there.

    Raises ConfigurationError for a stop without a start, for a start without a stop, and in a process that already serves
    requests.
    """
    for missing, function in (("start", start), ("stop", stop)):
        if not callable(function):
            raise ConfigurationError(
                f"{missing} is {function!r}, and not a function",
                option="mold.pause",
                hint=_HINTS[missing],
            )
    assert stop is not None
    assert start is not None
    pair = Pair(stop, start, f"stop={_name(stop)}, start={_name(start)}")
    if phase() is not Phase.LOADING or _serves():
        raise ConfigurationError(
            f"the pair {pair.name} was registered after the application was loaded, so it would never be called",
            option="mold.pause",
            hint="Call it while the application loads: at the top of a module, or in an AppConfig's ready().",
        )
    register_pair(pair)


_HINTS = {
    "start": "What is stopped before the fork would be missing in every worker, and nobody would notice. Give start=, "
    "a function that makes it again in the worker.",
    "stop": "Give stop=, a function that stops it in the mold. If there is nothing to stop, connect to the signal "
    "django_workerguard.signals.after_fork_in_worker instead.",
}


def _name(function: Callable[[], Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(function)


def _serves() -> bool:
    """Return whether this process is a guarded worker that has finished its load."""
    worker = current_worker()
    if worker is None:
        return False
    state = worker.board.words[worker.board.layout.seat(worker.seat) + Seat.STATE]
    return state in (SeatState.READY, SeatState.LEAVING)
