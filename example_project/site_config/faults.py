"""Faults that are switched on from outside, by files. Act in guarded workers only, never in manage.py.

Each fault is a file in `directory`, written by ``fault.py``:

=================  ========================  =================================================
file               holds                     acts
=================  ========================  =================================================
fail-next-loads    how many are still to go  in ``CatalogueConfig.ready``: MemoryError
fail-loads-until   a Unix time               in ``CatalogueConfig.ready``: MemoryError
hang-loads         nothing                   in ``CatalogueConfig.ready``: never returns
kill-loads         nothing                   in ``CatalogueConfig.ready``: SIGKILL to itself
fail-urlconf       nothing                   while ``site_config.urls`` is imported: ImportError
=================  ========================  =================================================

The first four, with ``tasks-`` before them, act where a child of Celery's pool prepares itself.
"""

import fcntl
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TASKS = "tasks-"


@dataclass(frozen=True)
class Fault:
    """A fault that is switched on."""

    name: str
    value: str

    def __str__(self) -> str:
        whose = "loads of tasks" if self.name.startswith(TASKS) else "loads"
        match self.name.removeprefix(TASKS):
            case "fail-next-loads":
                return f"the next {self.value} {whose} fail"
            case "fail-loads-until":
                return f"{whose} fail for another {float(self.value) - time.time():.0f} s"
            case "hang-loads":
                return f"{whose} hang"
            case "kill-loads":
                return f"{whose} are killed"
            case _:
                return "the URLconf fails"


def directory() -> Path:
    """Return where the fault files lie: $EXAMPLE_FAULTS, else ``faults/`` beside manage.py."""
    return Path(os.environ.get("EXAMPLE_FAULTS") or Path(__file__).resolve().parent.parent / "faults")


def active() -> list[Fault]:
    """Return the faults that would act on a load that began now."""
    return [fault for path in _files() if (fault := _read(path)) and _acts(fault)]


def switch_on(name: str, value: str = "") -> None:
    """Switch a fault on, whole: a worker never reads half a file."""
    directory().mkdir(parents=True, exist_ok=True)
    half = directory() / f".{name}.{os.getpid()}"
    half.write_text(value)
    half.replace(directory() / name)


def clear() -> None:
    """Switch every fault off."""
    for path in _files():
        path.unlink(missing_ok=True)


def act_on_load() -> None:
    """Be the fault of a load, if one is on. Called by ``CatalogueConfig.ready``."""
    if _in_a_worker():
        _act("")


def act_on_task_load() -> None:
    """Be the fault of a Celery child's load, guarded or not. Called where ``site_config.celery`` prepares it."""
    _act(TASKS)


def _act(prefix: str) -> None:
    names = {fault.name for fault in active()}
    if f"{prefix}hang-loads" in names:
        threading.Event().wait()
    if f"{prefix}kill-loads" in names:
        os.kill(os.getpid(), signal.SIGKILL)
    if f"{prefix}fail-loads-until" in names:
        raise MemoryError(f"the fault {prefix}fail-loads-until is on")
    if f"{prefix}fail-next-loads" in names and take_one(f"{prefix}fail-next-loads"):
        raise MemoryError(f"the fault {prefix}fail-next-loads is on")


def act_on_urlconf() -> None:
    """Be the fault of a URLconf, if it is on. Called while ``site_config.urls`` is imported."""
    if _in_a_worker() and "fail-urlconf" in {fault.name for fault in active()}:
        raise ImportError("the fault fail-urlconf is on")


def take_one(name: str = "fail-next-loads") -> bool:
    """Count a fault down, and say whether there was one left. Atomic between processes."""
    try:
        file = (directory() / name).open("r+")
    except FileNotFoundError:
        return False
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        left = int(file.read() or 0)
        if left <= 0:
            return False
        file.seek(0)
        file.write(str(left - 1))
        file.truncate()
        return True


def _in_a_worker() -> bool:
    # Late, so that fault.py runs on any Python, with nothing installed.
    from django_workerguard import current_worker

    return current_worker() is not None


def _read(path: Path) -> Fault | None:
    try:
        return Fault(path.name, path.read_text().strip())
    except FileNotFoundError:  # cleared in this moment
        return None


def _files() -> list[Path]:
    if not directory().is_dir():
        return []
    return sorted(path for path in directory().iterdir() if not path.name.startswith("."))


def _acts(fault: Fault) -> bool:
    match fault.name.removeprefix(TASKS):
        case "fail-next-loads":
            return int(fault.value or 0) > 0
        case "fail-loads-until":
            return float(fault.value or 0) > time.time()
        case _:
            return True
