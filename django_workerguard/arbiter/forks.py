"""What a process gives up that the application forks from a worker. Runs in that process.

It inherits the worker's seat, its line to the arbiter and its signal handlers. A view that starts a
`multiprocessing.Process` and ends it by SIGTERM must not make the arbiter believe that the worker leaves.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Callable

from django_workerguard.worker.current import set_current_worker
from django_workerguard.worker.seat_handle import Guard

# whose handlers are the server's; a handler of the application's own stays
SERVERS = (
    "gunicorn.",
    "uvicorn.",
    "uvicorn_worker.",
    "asyncio.",
    "django_workerguard.",
    "uvloop",
    "billiard.",
)


def disown_forks(guard: Guard) -> None:
    """Have every process that this worker forks from now on give up what is the worker's. Call it once a process."""
    worker = os.getpid()

    def give_up() -> None:
        if os.getpid() != worker:
            _give_up(guard)

    os.register_at_fork(after_in_child=give_up)


def _give_up(guard: Guard) -> None:
    steps: tuple[Callable[[], object], ...] = (
        guard.board.make_private,
        lambda: _silence(guard.wake_fd),
        faulthandler.disable,
        lambda: signal.set_wakeup_fd(-1),  # an event loop's: the worker would take the signal for its own
        _restore_signals,
        lambda: set_current_worker(None),
    )
    for step in steps:
        try:
            step()
        except (OSError, ValueError):
            continue  # each is better than none: this process is the application's


def _silence(fd: int) -> None:
    """Lead a descriptor to /dev/null: its number must not become another file's."""
    if fd < 0:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, fd, inheritable=False)
    os.close(nowhere)


def _restore_signals() -> None:
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        if callable(handler) and _is_servers(handler):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _is_servers(handler: Callable[..., object]) -> bool:
    return f"{getattr(handler, '__module__', None)}.".startswith(SERVERS)
