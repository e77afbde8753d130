"""A consumer step that lets the pool arbiter tick wherever Celery's main thread waits. Runs in Celery's main process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import bootsteps


class Pulse(bootsteps.Step):
    """A step of the consumer: lets the pool arbiter tick while the broker is away, and between two blocking reads.

    Celery's loops run the pool's timers. A broker that cannot be reached holds them up, and the loop for blocking
    transports has no timers.
    """

    label = "workerguard"

    def __init__(self, consumer: Any, **options: Any) -> None:
        super().__init__(consumer, **options)
        tick = getattr(consumer.pool, "look_around", None)
        if tick is None:  # this worker's pool is not ours
            return
        consumer.ensure_connected = _around(consumer.ensure_connected, tick)
        pending = consumer.perform_pending_operations

        def perform_pending_operations() -> Any:
            tick()
            return pending()

        consumer.perform_pending_operations = perform_pending_operations


def _around(ensure_connected: Callable[[Any], Any], tick: Callable[[], None]) -> Callable[[Any], Any]:
    """Have the pool arbiter tick every second while Celery waits for a connection."""

    def patient(connection: Any) -> Any:
        ensure = connection.ensure_connection

        def ensure_connection(*arguments: Any, callback: Callable[[], Any] | None = None, **more: Any) -> Any:
            def between() -> Any:
                tick()
                return callback() if callback else None

            return ensure(*arguments, callback=between, **more)

        connection.ensure_connection = ensure_connection
        try:
            return ensure_connected(connection)
        finally:
            del connection.ensure_connection

    return patient
