"""Load the application once, as a worker would, and print the result. Runs in place of the arbiter.

With a mold the load is that of a mold; then a worker is forked from it, if one can be.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from django_workerguard.config.output import Output, say
from django_workerguard.config.text import in_megabytes, plain
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError
from django_workerguard.scoreboard.layout import SeatState
from django_workerguard.server.configuration.guarded_application import GuardedApplication
from django_workerguard.server.trial import Process, Trial, TrialError


def check(app: GuardedApplication) -> int:
    """Print the load's steps, or why it failed, and whether workers can be forked; return the exit code.

    Raises ConfigurationError if load=mold and no worker can be forked, and CannotWriteError.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # the processes end with this one
    for line in app.warnings:
        say(f"Warning: {line}")
    # the project may have ignored it in manage.py: then no process can be waited for
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    trial = Trial(app)
    output = Output()
    try:
        return output.finish(_try(app, trial, output))
    except OSError as error:
        raise WorkerguardError(f"the check cannot start its processes: {error}") from error
    finally:
        trial.end()


def _try(app: GuardedApplication, trial: Trial, output: Output) -> int:
    warmup = app.guard.options.warmup
    process: Process | None = None
    try:
        if app.policy.load == "lazy":
            process = trial.worker()
        else:
            process = mold = trial.mold()
            trial.finish_mold(mold)
            if _is_failed(mold, warmup, output):
                return ExitCode.LOAD_FAILED
            _show_load(mold, warmup, output)
            _show_verdict(app, mold, output)
            process = trial.fork_from(mold) if mold.is_fit else trial.convert(mold)
        trial.finish(process)
    except TrialError as error:
        return _show_end(process, str(error), warmup, output)
    if _is_failed(process, warmup, output):
        return ExitCode.LOAD_FAILED
    _show_load(process, warmup, output)
    output.show(f"The application loads (pid {process.pid}).")
    return ExitCode.OK


def _show_verdict(app: GuardedApplication, mold: Process, output: Output) -> None:
    """Print whether workers can be forked. Raises ConfigurationError if none can be, and none may load by itself."""
    hazards = mold.report.get("hazards", [])
    for hazard in hazards:
        output.show(f"hazard: {plain(hazard)}")
    if mold.is_fit:
        output.show("Workers can be forked from the application.")
    elif app.policy.load == "mold":
        number = f"{len(hazards)} hazard{'s' if len(hazards) != 1 else ''}"
        raise ConfigurationError(
            f"no worker can be forked from the application: {number}",
            option="load",
            where=app.guard.sources["load"],
            hint="Remove what the lines above name, or set load=auto.",
        )
    else:
        output.show(
            "No worker can be forked from the application, so with load=auto each worker loads it by itself."
        )


def _is_failed(process: Process, warmup: tuple[str, ...], output: Output) -> bool:
    """Return whether the process has reported a failed load, and print the error if it has."""
    if process.handle.state != SeatState.FAILED:
        return False
    error = process.report.get("error") or {}
    _show_steps(process, warmup, output)
    say(str(error.get("traceback", "")))
    _show_error(error.get("step"), f"{error.get('type')}: {plain(str(error.get('message')))}", output)
    return True


def _show_end(process: Process | None, reason: str, warmup: tuple[str, ...], output: Output) -> int:
    """Print why a process did not load that has reported no error itself."""
    if process is not None:
        _show_steps(process, warmup, output)
    _show_error(process.report.get("step") if process is not None else None, reason, output)
    return ExitCode.LOAD_FAILED


def _show_error(step: str | None, reason: str, output: Output) -> None:
    output.finish(ExitCode.LOAD_FAILED)
    place = f" in step {step}" if step else ""
    say(f"Error: the load failed{place}: {reason}")


def _show_load(process: Process, warmup: tuple[str, ...], output: Output) -> None:
    _show_steps(process, warmup, output)
    for step in process.report.get("steps", []):
        for part in step["skipped"]:
            text = f"left out in step {step['name']}: {part['part']}: {part['type']}: {part['message']}"
            output.show(plain(text))
        for left in step["left"]:
            output.show(plain(f"left open by step {step['name']}: {left}"))


def _show_steps(process: Process, warmup: tuple[str, ...], output: Output) -> None:
    for step in process.report.get("steps", []):
        output.show(_line(step, warmup))


def _line(step: Mapping[str, Any], warmup: tuple[str, ...]) -> str:
    """Return a step's time and memory, and the option that leaves it out; the first requests then pay for it."""
    peak, kept = (in_megabytes(step[key], digits=1) for key in ("peak_bytes", "retained_bytes"))
    line = f"{step['name']:24} {step['seconds'] * 1000:8.0f} ms {peak:>11} peak {kept:>11} kept"
    if step["name"] not in warmup:
        return line
    others = ",".join(name for name in warmup if name != step["name"])
    return f"{line}   without it: --warmup {others or repr('')}"
