"""Pairs that the project registers for the time around a fork: a right one, and wrong ones."""

import threading
import time

from django_workerguard import mold


class Ticker:
    """A library with a thread that holds a lock half of the time, and a `stop` that does not wait for the thread."""

    def __init__(self):
        self.lock = threading.Lock()
        self.ticks = 0
        self.start()

    def start(self):
        self.over = threading.Event()
        threading.Thread(target=self._run, name="ticker", args=(self.over,), daemon=True).start()

    def _run(self, over):
        while not over.is_set():
            with self.lock:
                self.ticks += 1
                time.sleep(0.1)
            time.sleep(0.1)

    def stop(self):
        self.over.set()


class Process:
    ticker: Ticker | None = None


def nothing():
    pass


def broken():
    raise RuntimeError("the queue cannot be opened again")


def register(kind):
    match kind:
        case "lock":
            Process.ticker = Ticker()
            mold.pause(stop=Process.ticker.stop, start=Process.ticker.start)
        case "half":
            mold.pause(stop=nothing)
        case "start-raises":
            mold.pause(stop=nothing, start=broken)
