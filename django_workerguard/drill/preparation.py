"""What the drill finds out before it starts a server: settings, configuration, and a load. Runs in the drill's process.

Each is found by a process of its own, in the project's own way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from django_workerguard.arbiter.final_kill import PATIENCE
from django_workerguard.config import interpreter
from django_workerguard.config.arguments import add_arguments, collect, split_at_dashes
from django_workerguard.config.options import OPTIONS
from django_workerguard.drill.configuration import Configuration, parse
from django_workerguard.drill.site import Site, site_of
from django_workerguard.errors import ConfigurationError, ExitCode, WorkerguardError
from django_workerguard.values import value_class
from django_workerguard.worker.after_fork import die_with_parent

READER = "django_workerguard.drill.site_reader"
STEP = re.compile(r"\S+ +(?P<milliseconds>\d+) ms +\S+ MB peak .*")
FITS = "Workers can be forked from the application."
FITS_NOT = "No worker can be forked from the application"


class CannotRunError(WorkerguardError):
    """The drill cannot be run on this site."""

    exit_code = ExitCode.USAGE


@value_class(kw_only=True)
class Start:
    """How the site's server is started: the program, the settings, and the arguments of the user."""

    directory: str
    entry: str = ""  # the path of manage.py, "" if there is none
    settings: str = ""  # given by --settings
    pythonpath: str = ""
    guard: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, Any] = field(default_factory=dict)
    passed_on: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)

    def command(
        self,
        site: Site,
        *more: str,
        guard: Mapping[str, str] | None = None,
        server: Mapping[str, Any] | None = None,
        passed_on: Sequence[str] | None = None,
    ) -> list[str]:
        """Return the command that serves; the arguments replace those of the user."""
        python = [sys.executable, *interpreter.options()]
        if self.entry and site.is_installed:
            words = [*python, self.entry, "serve_guarded"]
            words += ["--settings", self.settings] if self.settings else []
        else:
            words = [*python, "-m", "django_workerguard", "serve", "--settings", site.module]
        words += ["--pythonpath", self.pythonpath] if self.pythonpath else []
        for name, value in (self.guard if guard is None else guard).items():
            words.append(f"{OPTIONS[name].flag}={value}")
        for name, value in (self.server if server is None else server).items():
            values = value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}={one}" for one in values]
        return [*words, *more, "--", *(self.passed_on if passed_on is None else passed_on)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(
            message,
            where="the arguments after --",
            hint="They are those of serve_guarded; a second -- begins gunicorn's own.",
        )


def serve_arguments(words: Sequence[str]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Split arguments of serve_guarded into the guard's values, gunicorn's values and gunicorn's arguments.

    Raises ConfigurationError.
    """
    own, passed_on = split_at_dashes(words)
    parser = _Parser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    action, guard, server = collect(vars(parser.parse_args(own)))
    if action != "serve":
        raise ConfigurationError(f"--{action} is not for the drill", where="the arguments after --")
    return guard, server, passed_on


def read_site(start: Start, directory: Path) -> Site:
    """Return the site's settings. Raises CannotRunError if they cannot be imported."""
    module = start.settings or start.environ.get("DJANGO_SETTINGS_MODULE", "")
    if not start.entry and not module:
        raise ConfigurationError(
            "no settings module is set",
            option="settings",
            hint="Run the drill in the directory of manage.py, give --settings mysite.settings, or set "
            "DJANGO_SETTINGS_MODULE.",
        )
    file = directory / "site.json"
    extra = [os.path.join(start.directory, start.pythonpath)] if start.pythonpath else []
    project = os.path.dirname(start.entry) if start.entry else start.directory
    request = {"entry": start.entry, "module": module, "path": [*extra, project, *_import_path(start)]}
    file.write_text(json.dumps(request))
    done = _run(start, [sys.executable, *interpreter.options(), "-m", READER, str(file)])
    content = json.loads(file.read_text())
    if "databases" not in content:
        reason = content.get("error") or _last_line(done.stderr) or "the process that read them has ended"
        settings = f"its settings {module}" if module else f"the settings that {start.entry} chooses"
        raise CannotRunError(f"the site cannot load: {settings}: {reason}")
    return site_of(content)


def _import_path(start: Start) -> list[str]:
    """Return the import path of a Python that is started as the server will be."""
    done = subprocess.run(
        [sys.executable, *interpreter.options(), "-P", "-c", "import json, sys; print(json.dumps(sys.path))"],
        env=dict(start.environ),
        capture_output=True,
        text=True,
        check=True,
    )
    path: list[str] = json.loads(done.stdout.splitlines()[-1])
    return path


def read_configuration(start: Start, site: Site) -> Configuration:
    """Return the configuration of the site's server. Raises CannotRunError."""
    done = _run(start, start.command(site, "--print-config"))
    if done.returncode:
        if "Traceback (most" in done.stderr:  # manage.py runs Django's checks, which import the URLconf
            place = _own_place(done.stderr, start)
            raise CannotRunError(f"the site cannot load: {_last_line(done.stderr)}{place}")
        raise CannotRunError(f"the server cannot be configured: {_error(done)}")
    return parse(done.stdout)


@value_class(kw_only=True)
class Load:
    """One load of the site. ``fits_mold``: whether a worker can be forked after it; None: unknown."""

    seconds: float
    fits_mold: bool | None
    hazards: tuple[str, ...] = ()


def try_load(start: Start, site: Site) -> Load:
    """Load the site once, as a mold if that can be. Raises CannotRunError with the failure if it cannot load."""
    done = _run(start, start.command(site, "--check", guard={**start.guard, "load": "auto"}))
    if done.returncode:  # it may be for the mold alone
        done = _run(start, start.command(site, "--check"))
    if done.returncode:
        raise CannotRunError(f"the site cannot load. {_error(done)}")
    return load_of(done.stdout)


def load_of(output: str) -> Load:
    """Return the load from the output of ``--check``. Pure."""
    lines = output.splitlines()
    steps = filter(None, map(STEP.fullmatch, lines))
    verdicts = [line.startswith(FITS) for line in lines if line.startswith((FITS, FITS_NOT))]
    return Load(
        seconds=sum(int(step["milliseconds"]) for step in steps) / 1000,
        fits_mold=verdicts[0] if verdicts else None,
        hazards=tuple(line.removeprefix("hazard: ") for line in lines if line.startswith("hazard: ")),
    )


def _run(start: Start, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. If a signal ends the drill, end the command with all its processes."""
    process = subprocess.Popen(
        command,
        env=dict(start.environ),
        cwd=start.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the drill
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - no other thread runs yet
    )
    try:
        output, errors = process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel may not end it
            process.wait(PATIENCE)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _error(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error that a command has printed, without the word in front."""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("Error: ", "CommandError: "))]
    line = lines[-1] if lines else _last_line(done.stderr) or f"exit code {done.returncode}"
    return line.removeprefix("CommandError: ").removeprefix("Error: ")


def _own_place(traceback: str, start: Start) -> str:
    """Return the last line of a traceback that is the site's, in brackets; "" if none is."""
    directory = os.path.join(os.path.dirname(start.entry) or start.directory, "")
    places = re.findall(r'File "([^"]+)", line (\d+)', traceback)
    own = [f" ({file}:{line})" for file, line in places if file.startswith(directory) and file != start.entry]
    return own[-1] if own else ""


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
