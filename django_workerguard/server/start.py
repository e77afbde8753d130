"""The first reading of the settings, which the start waits for. Runs in the arbiter, before it serves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import replace
from types import FrameType
from typing import NoReturn

from django_workerguard.arbiter.final_kill import PATIENCE
from django_workerguard.config import settings_exchange
from django_workerguard.config.arbiter_signals import ignore_signals
from django_workerguard.config.handover import EARLY_SIGNALS, HELD_SIGNALS, STOP_SIGNALS, Handover
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.output import say
from django_workerguard.config.settings_exchange import Answer
from django_workerguard.errors import CannotLoadError, ConfigurationError, ExitCode
from django_workerguard.policy.backoff import back_off, seed_of
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.configuration.settings_process import settings_request, with_settings
from django_workerguard.server.early_answer import EarlyAnswer


def open_application(handover: Handover) -> GuardedApplication:
    """Read the configuration and the settings, with retries. Raises ConfigurationError and CannotLoadError."""
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)  # as process 1 it would not end otherwise; gunicorn takes over later
    ignore_signals(*EARLY_SIGNALS)  # the settings are being read, so a reload has nothing to do
    early_answer = EarlyAnswer(handover.reading)
    handover = replace(handover, reading={})
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)  # blocked since before the exec
        app = GuardedApplication(handover)
        app.settle(handover if handover.configured else _read_with_retries(app, early_answer))
    finally:
        early_answer.end()
    return app


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitCode.OK)


def _read_with_retries(app: GuardedApplication, early_answer: EarlyAnswer) -> Handover:
    options = app.read.guard_options().options
    handover = _with_module(app)
    if not app.early.environ:  # manage.py could not know it
        request, _ = settings_request(app, handover)
        early = early_answer.take(request, options.load_timeout or None)
        if early is not None:
            return with_settings(early, handover)
    for attempt in range(1, options.load_retries + 1):
        answer = _read(app, handover, options.load_timeout or None)
        if answer.silent and handover.entry:  # the project's own program has not led to the settings
            handover = replace(handover, entry="")
            answer = _read(app, handover, options.load_timeout or None)
        if not answer.error:
            return with_settings(answer, handover)
        if attempt < options.load_retries:
            _wait(attempt, options, answer)
    raise CannotLoadError(
        f"settings: {handover.settings_module!r} cannot be imported: {answer.error} "
        f"(set in {handover.settings_named_in})"
    )


def _with_module(app: GuardedApplication) -> Handover:
    """Name the settings module as the workers will: gunicorn's `raw_env` and a conf file come after the start's own."""
    module = app.early.environ.get("DJANGO_SETTINGS_MODULE")
    if module:
        return replace(app.handover, settings_module=module, settings_named_in="gunicorn's configuration")
    if app.handover.settings_module:
        return app.handover
    raise ConfigurationError(
        "no settings module is set",
        option="settings",
        hint="Give --settings mysite.settings, or set DJANGO_SETTINGS_MODULE.",
    )


def _read(app: GuardedApplication, handover: Handover, patience: float | None) -> Answer:
    request, environ = settings_request(app, handover)
    fd = settings_exchange.write_request(request)
    try:
        overdue = _wait_for_reader(fd, environ, patience)
        answer = settings_exchange.read_answer(fd)
    finally:
        os.close(fd)
    if answer.silent and overdue:
        return Answer(error=f"its import did not end within {patience:g} s (load-timeout)")
    return answer


def _wait_for_reader(fd: int, environ: dict[str, str], patience: float | None) -> bool:
    """Run the process that reads, and say whether it was ended because it took too long."""
    arguments = settings_exchange.command(fd, patience=0.0)
    process = subprocess.Popen(arguments, env=environ, pass_fds=(fd,))
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        return True
    finally:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    return False


def _wait(attempt: int, options: GuardOptions, answer: Answer) -> None:
    wait = back_off(
        attempt,
        slot=0,
        first=options.load_retry_delay,
        longest=options.load_retry_max_delay,
        transient=False,
        seed=seed_of(socket.gethostname(), os.getpid(), time.time_ns()),
    )
    say(f"The settings cannot be imported: {answer.error}; retrying in {wait:.1f} s")
    time.sleep(wait)
