"""The number of ready workers over time. Runs in a thread of the drill's process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from django_workerguard.drill.measure import Ready

INTERVAL = 0.02  # seconds


class Watch:
    """Reads the number again and again, and keeps its changes."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.changes: list[Ready] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        last = None
        while True:
            number = self._count()
            if number != last:
                self.changes.append(Ready(time.time(), number))
                last = number
            if self._over.wait(INTERVAL):
                return
