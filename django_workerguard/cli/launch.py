"""Start the server in a clean interpreter. Runs in `serve_guarded` and ``python -m django_workerguard serve``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.arbiter.program import execute
from django_workerguard.config import handover as handovers
from django_workerguard.config import interpreter, settings_exchange, standard_streams
from django_workerguard.config.environment import as_started
from django_workerguard.config.handover import HELD_SIGNALS, Handover
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError

# by its path: the package may be in a directory that only manage.py adds to the import path
SERVER = Path(__file__).parents[1] / "server" / "__main__.py"


ANSWER = 3  # the descriptor in the process that reads the settings
LONGEST = 65.0  # seconds after which that process ends itself, should the server not have ended it
# timers survive the exec, but handlers do not: then the signal of a timer ends the process
TIMERS = {
    signal.ITIMER_REAL: signal.SIGALRM,
    signal.ITIMER_VIRTUAL: signal.SIGVTALRM,
    signal.ITIMER_PROF: signal.SIGPROF,
}


@contextlib.contextmanager
def reading_ahead(handover: Handover) -> Iterator[dict[str, Any]]:
    """Have a process read the settings while the block runs, and give what the handover needs for the server to take over.

    The block ends by `launch`; if it ends otherwise, so does the process. The server reads the settings again if its
    configuration asks for another reading.
    """
    app = handover.guard.get("app") or os.environ.get("WORKERGUARD_APP", "")
    request = settings_exchange.request_for(handover, app=app)
    environ = {**as_started(), "DJANGO_SETTINGS_MODULE": handover.settings_module}
    try:
        fd = settings_exchange.write_request(request)
    except WorkerguardError:  # the handover has the same difficulty, and reports it
        yield {}
        return
    arguments = settings_exchange.command(ANSWER, patience=LONGEST)
    try:
        pid = execute(arguments, settings_exchange.environment(environ, request), descriptors={ANSWER: fd})
    except OSError:  # the server tries again
        os.close(fd)
        yield {}
        return
    try:
        with _ended_by_signals():
            yield {"pid": pid, "fd": fd, "request": settings_exchange.encode(request)}
    finally:  # this process has not become the server
        kill_and_collect([pid])
        os.close(fd)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that stops the server end the block, so that the process that reads the settings ends too."""

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(ExitCode.OK)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGQUIT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(handover: Handover) -> NoReturn:
    """Replace this process by the server. Raises ConfigurationError before that.

    The server gets the environment that this process was started with, without the changes of the settings: the server
    reads them again, and would otherwise see their old values instead of a changed ``.env`` file.
    """
    fd = handovers.write(handover)
    command = [sys.executable, *interpreter.options(), "-P", str(SERVER), "--handover", str(fd)]
    environ = dict(os.environ) if handover.configured else as_started()
    if handover.settings_module:
        environ["DJANGO_SETTINGS_MODULE"] = handover.settings_module
    if handover.reading:
        os.set_inheritable(handover.reading["fd"], True)
    standard_streams.flush()
    _reset_signals()
    os.execve(sys.executable, command, environ)  # noqa: S606 - no shell, on purpose


def _reset_signals() -> None:
    """Undo what the settings have done to signals and the server would inherit. The workers read the settings themselves."""
    for timer, number in TIMERS.items():
        if callable(signal.getsignal(number)):  # otherwise it may be the operator's, who limits the run
            signal.setitimer(timer, 0)
            signal.signal(number, signal.SIG_IGN)  # drops one that is blocked
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave no child to wait for
    # kept for the server, which takes signals later: as process 1 it would lose them, else be ended by them
    signal.pthread_sigmask(signal.SIG_SETMASK, HELD_SIGNALS)


def require_linux() -> None:
    """Raise ConfigurationError if this is not Linux."""
    if not sys.platform.startswith("linux"):
        raise ConfigurationError(
            f"the guarded server runs only on Linux, and this is {sys.platform}",
            hint="Use runserver here; GuardMiddleware works under any server.",
        )
