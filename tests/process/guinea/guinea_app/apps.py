import atexit
import multiprocessing
import os
import sys
import threading
import time

from django.apps import AppConfig
from guinea_faults import fault

from django_workerguard import current_worker
from guinea_app import pairs


class GuineaConfig(AppConfig):
    name = "guinea_app"

    def ready(self) -> None:
        if "GUINEA_TALKS" in os.environ:
            listen()
        if "GUINEA_REPORTER" in os.environ:
            report(os.environ["GUINEA_REPORTER"])
        if "GUINEA_LATE_THREAD" in os.environ:
            start_thread_after_fork(os.environ["GUINEA_LATE_THREAD"])
        if "GUINEA_FORK_HOOKS" in os.environ:
            os.register_at_fork(
                before=lambda: fault("before-fork"), after_in_parent=lambda: fault("after-fork")
            )
        if "GUINEA_PAIR" in os.environ:
            pairs.register(os.environ["GUINEA_PAIR"])
        if "GUINEA_SCHEDULER" in os.environ:
            name = os.environ["GUINEA_SCHEDULER"]
            threading.Thread(target=time.sleep, args=(3600,), name=name).start()
        if "GUINEA_PROCESS" in os.environ and current_worker() is not None:
            name = os.environ["GUINEA_PROCESS"]
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), name=name).start()
        if "GUINEA_WEIGHT" in os.environ and current_worker() is not None:
            weigh(*map(float, os.environ["GUINEA_WEIGHT"].split()))
        fault("ready")


def weigh(peak: float, kept: float, seconds: float) -> None:
    """Allocate memory, in megabytes, for some time, and keep a part of it."""
    GuineaConfig.kept = b"x" * int(kept * (1 << 20))
    used = b"x" * int((peak - kept) * (1 << 20))
    time.sleep(seconds)
    del used


def start_thread_after_fork(name: str) -> None:
    """Start a thread in the process that forks, after its first fork, as some libraries do."""

    def start() -> None:
        if name not in {thread.name for thread in threading.enumerate()}:
            threading.Thread(target=time.sleep, args=(3600,), name=name, daemon=True).start()

    os.register_at_fork(after_in_parent=start)


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def listen() -> None:
    from django_workerguard.signals import worker_loaded, worker_retiring

    for name, signal in (("worker_loaded", worker_loaded), ("worker_retiring", worker_retiring)):

        def receiver(sender, worker, name=name, **kwargs):
            say(f"{name} slot={worker.slot} loaded={worker.loaded}")

        signal.connect(receiver, weak=False)


def report(how: str) -> None:
    """Do what error reporters do: hook in, send from a thread, flush at the exit."""
    sys.excepthook = lambda kind, error, trace: say(f"reported {kind.__name__}")
    if how == "for ever":
        threading.Thread(target=time.sleep, args=(3600,)).start()  # keeps the interpreter from ending
    atexit.register(say, "flushed")
