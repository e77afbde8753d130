"""A Celery app whose children can be made to fail before their first task, and whose tasks leave a trace."""

import ctypes
import fcntl
import os
import signal
import time
from pathlib import Path

from celery import Celery, signals

from site_config import broker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pool_settings")
broker.install()
DIRECTORY = Path(os.environ["POOL_DIRECTORY"])

app = Celery("pool")
app.config_from_object("django.conf:settings", namespace="CELERY")
if os.environ.get("POOL_GUARDED", "1") == "1":
    from django_workerguard.contrib.celery import child, guard

    guard(app)

    take = child.GuardedBlockingWorker._take

    def take_or_die(self):
        job = take(self)
        if job:
            fail(take_fault("taken"))
        return job

    child.GuardedBlockingWorker._take = take_or_die

prepared: dict[str, int] = {}
hoard: list[bytearray] = []


def take_fault(name: str) -> str:
    """Return how a place is to fail, "" if it is not; counted faults are counted down, atomically, one after another."""
    try:
        file = (DIRECTORY / "faults" / name).open("r+")
    except FileNotFoundError:
        return ""
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        for number, line in enumerate(lines):
            kind, _, times = line.partition(" ")
            if not times:
                return kind
            if int(times) > 0:
                lines[number] = f"{kind} {int(times) - 1}"
                file.seek(0)
                file.write("\n".join(lines))
                file.truncate()
                return kind
    return ""


def fail(kind: str) -> None:
    match kind:
        case "":
            return
        case "memory":
            raise MemoryError("no memory left")
        case "import":
            raise ImportError("broken for good")
        case "exit":
            raise SystemExit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "os-exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(3600)
        case "hang-in-c":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
            ctypes.CDLL(None).sleep(3600)
        case "slow":
            time.sleep(6)


@signals.worker_process_init.connect
def prepare(**_):
    fail(take_fault("init"))
    prepared["pid"] = os.getpid()


@signals.worker_init.connect
def may_get_stuck(**_):
    """Have SIGUSR2 stop the main thread for good, as a deadlock would."""
    signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))


def probe() -> None:
    fail(take_fault("probe"))


def trace(line: str) -> None:
    with (DIRECTORY / "trace").open("a") as file:
        file.write(line + "\n")  # one write, appended whole


@app.task(bind=True)
def note(self, number: int, seconds: float = 0.0, megabytes: int = 0) -> None:
    """Leave a line: which number, in which child, and whether that had been prepared."""
    if megabytes:
        hoard.append(bytearray(os.urandom(1) * (megabytes << 20)))
    time.sleep(seconds)
    trace(f"{number} {os.getpid()} {int(prepared.get('pid') == os.getpid())}")


@app.task
def failing(number: int) -> None:
    trace(f"{number} {os.getpid()} {int(prepared.get('pid') == os.getpid())}")
    raise ValueError(number)


@app.task
def swell(megabytes: int) -> None:
    """Need much memory for a moment, and give it back."""
    block = b"x" * (megabytes << 20)
    assert block[-1] == ord("x")
    trace(f"swell {os.getpid()} 1")
