"""Prepare a loaded process for being forked, and each worker for its first request. Runs in the mold, then in the worker.

A settle is a pair: whatever is stopped here is started again by `resume` in each worker, or is made again by its library
when it is next used. A stop without a start is the worst danger: the scan for hazards would find nothing, and every
worker would lose its data without an error. So this never calls the general shutdown of a library.

It does not shut down sockets of unknown objects either. A plain connection that the site holds would be broken in every
worker, while today its owner can see it: the socket stays, and is a hazard that is reported by its address.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from django_workerguard.config import standard_streams
from django_workerguard.config.redact import describe_briefly
from django_workerguard.errors import PairError
from django_workerguard.sentinel.concurrency import objects_of
from django_workerguard.sentinel.known_libraries import pairs_of_known_libraries
from django_workerguard.worker.current import CurrentWorker, current_worker
from django_workerguard.worker.pairs import (
    Pair,
    Phase,
    mark_stopped,
    registered_pairs,
    set_phase,
    take_stopped,
)

logger = logging.getLogger("django_workerguard")
THREADS_END = 2.0  # seconds for the threads of what was stopped to end


def settle() -> None:
    """Stop and close whatever must not be shared by workers. Call it once in the mold, after the load.

    Raises PairError if a receiver of `before_mold_fork` or a `stop` raises: the load has failed.
    """
    from django_workerguard.signals import before_mold_fork

    _send(before_mold_fork, "before_mold_fork", None)
    set_phase(Phase.SETTLED)
    _stop(registered_pairs()[::-1])
    # asked only now: a library that a pair of the site's has stopped must not be started twice
    _stop(tuple(pairs_of_known_libraries()))
    for step in GENERIC:
        with _our_guess(step.__name__):
            step()


def resume() -> None:
    """Start what was stopped. Call it in each worker after the fork, once `current_worker` is set, before it serves.

    It is right in the settled process too, if that becomes a worker itself. The order mirrors that of `settle`: libraries
    come first, so that a `start` of the site's can use them, and the signal comes last.

    Raises PairError if a `start` or a receiver of `after_fork_in_worker` raises: the load of this worker has failed.
    """
    from django_workerguard.signals import after_fork_in_worker

    with _our_guess("reseeding numpy.random"):
        _reseed_numpy()
    for pair in take_stopped():
        _call("start", pair)
    _send(after_fork_in_worker, "after_fork_in_worker", CurrentWorker, worker=current_worker())
    set_phase(Phase.RESUMED)


def _stop(pairs: tuple[Pair, ...]) -> None:
    for pair in pairs:
        _call("stop", pair)
        mark_stopped(pair)
    if pairs:
        _wait_for_threads()


def _call(half: str, pair: Pair) -> None:
    try:
        getattr(pair, half)()
    except Exception as error:
        raise PairError(
            f"{half} of the pair ({pair.name}) raised {type(error).__name__}: {describe_briefly(error)[1]}. "
            f"{ADVICE[half]}"
        ) from error


ADVICE = {
    "stop": "Correct it, or serve with load=lazy, which never calls it.",
    "start": "Correct it: this worker does not serve without it. With load=lazy it is never called.",
}


def _send(signal: Any, name: str, sender: type | None, **arguments: Any) -> None:
    for receiver, answer in signal.send_robust(sender, **arguments):
        if isinstance(answer, Exception):
            described = f"{getattr(receiver, '__module__', '')}.{getattr(receiver, '__qualname__', receiver)}"
            raise PairError(
                f"{described}, a receiver of the signal {name}, raised {type(answer).__name__}: "
                f"{describe_briefly(answer)[1]}. Correct it, or serve with load=lazy, which does not send this signal."
            ) from answer


@contextlib.contextmanager
def _our_guess(name: str) -> Iterator[None]:
    """Swallow a failure of something that the site has not asked for: it must not fail the load."""
    try:
        yield
    except Exception as error:
        logger.warning("%s failed before the fork and was skipped: %s", name, error, exc_info=True)


def _wait_for_threads() -> None:
    """Wait until the threads of what was stopped have ended: some libraries tell them to end and do not wait."""
    deadline = time.monotonic() + THREADS_END
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)


def _reseed_numpy() -> None:
    """Reseed numpy's global generator; Python's own reseeds itself after a fork."""
    if random := sys.modules.get("numpy.random"):
        random.seed()


def close_django_connections() -> None:
    """Close Django's connections to databases, with their pools, and to caches. Each opens again when it is used."""
    if "django.conf" not in sys.modules or not sys.modules["django.conf"].settings.configured:
        return
    from django.core.cache import caches
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        with _our_guess(f"closing the database connection {connection.alias!r}"):
            connection.close()
            if close_pool := getattr(connection, "close_pool", None):
                close_pool()
    for cache in caches.all(initialized_only=True):
        with _our_guess(f"closing the cache {cache!r}"):
            cache.close()


def close_http_connections() -> None:
    """Close idle connections of requests' sessions and urllib3's pools. Each opens again when it is used."""
    for session in _objects_of(("requests.sessions", "Session")):
        with _our_guess("closing a session of requests"):
            session.close()
    for pool in _objects_of(("urllib3.connectionpool", "HTTPConnectionPool")):
        with _our_guess("closing the idle connections of a pool of urllib3"):
            for connection in list(getattr(pool.pool, "queue", ())):
                if connection is not None:
                    connection.close()


def close_redis_connections() -> None:
    """Disconnect the pools of redis-py. A connection opens again when it is used."""
    for pool in _objects_of(("redis.connection", "ConnectionPool")):
        with _our_guess("disconnecting a pool of redis"):
            pool.disconnect()


def flush_log_handlers() -> None:
    """Flush every log handler, so that no worker writes what the mold has in its buffers."""
    for reference in list(getattr(logging, "_handlerList", ())):
        handler = reference() if callable(reference) else reference
        if handler is not None:
            with _our_guess(f"flushing the log handler {handler!r}"):
                handler.flush()
    standard_streams.flush()


def _objects_of(*names: tuple[str, str]) -> list[Any]:
    classes = [getattr(sys.modules.get(module), name, None) for module, name in names]
    imported = [cls for cls in classes if isinstance(cls, type)]
    return objects_of(*imported) if imported else []


GENERIC: tuple[Callable[[], None], ...] = (
    close_django_connections,
    close_http_connections,
    close_redis_connections,
    flush_log_handlers,
)
