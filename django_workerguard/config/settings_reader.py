"""Reader of the settings for the server, in the way of the project itself. Runs in a process of its own.

Its arguments are FD and SECONDS. The file FD has the request and gets the answer. If the project's manage.py has started
the server, it runs up to the point at which Django reads the settings. Otherwise the settings are read directly, and if
that fails, through the project's WSGI or ASGI module.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, NoReturn

from django_workerguard.config import standard_streams
from django_workerguard.config.arbiter_signals import FOR_ARBITER, ignore_signals
from django_workerguard.config.environment import additions, change, difference
from django_workerguard.config.handover import applications_of, plain
from django_workerguard.config.memfd import read_all, write_all
from django_workerguard.config.redact import in_short
from django_workerguard.config.settings_exchange import Answer, Request, decode

DJANGO = "django.conf"  # imported by name: modules that the server may import must not import Django


class StopError(BaseException):
    """Stops the project's code as soon as Django has tried to read the settings."""


class SettingsHook:
    """Hook into Django's reading of the settings. It keeps the environment before it, and its error."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.error: BaseException | None = None
        self._reading = False
        lazy_settings = import_module(DJANGO).LazySettings
        self._read = lazy_settings._setup
        hook = self

        def setup(settings: Any, name: Any = None) -> None:
            if hook._reading:  # settings may use themselves while they are read
                hook._read(settings, name)
            else:
                hook._read_and_stop(settings, name)

        lazy_settings._setup = setup

    def _read_and_stop(self, settings: Any, name: Any) -> NoReturn:
        self._reading, self.error, self.environ = True, None, dict(os.environ)
        try:
            self._read(settings, name)
        except BaseException as error:
            self.error = error
        finally:
            self._reading = False
        raise StopError

    def is_loaded_by(self, code: Callable[[], object]) -> bool:
        """Run code of the project. Return whether it has read the settings without an error."""
        return self.is_reached_by(code) and self.error is None

    def is_reached_by(self, code: Callable[[], object]) -> bool:
        """Run code of the project. Return whether it has tried to read the settings. Keep its error if it has not."""
        try:
            code()
        except StopError:
            return True
        except BaseException as error:
            self.error = error
        return False


def main(arguments: Sequence[str]) -> NoReturn:
    """Write the answer and end at once, without waiting for threads or exit hooks of the settings."""
    fd, patience = int(arguments[0]), float(arguments[1])
    standard_streams.open_missing()  # a file of manage.py's may have had the number
    ignore_signals(signal.SIGUSR1, *FOR_ARBITER)
    signal.setitimer(signal.ITIMER_REAL, patience)
    request = decode(read_all(fd))
    sys.path[:] = request.path
    try:
        answer = read(request)
    except BaseException as error:
        answer = Answer(error=in_short(error))
    write_all(fd, json.dumps(vars(answer), default=plain).encode())
    standard_streams.flush()
    os._exit(0)


def read(request: Request) -> Answer:
    """Try the project's ways to its settings, one after the other, until one of them reads them."""
    if request.directory:
        os.chdir(request.directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = request.module
    hook = SettingsHook()
    started_with = dict(os.environ)
    if request.entry and hook.is_reached_by(lambda: _run(request)):
        if hook.error is not None:
            return Answer(error=in_short(hook.error))
        return _answer(additions(started_with, hook.environ))
    return _read_without_entry(request, hook, started_with)


def _read_without_entry(request: Request, hook: SettingsHook, started_with: dict[str, str]) -> Answer:
    """Read the settings directly, else with the entry's earlier changes, else through the project's applications."""
    of_entry = request.environ  # without the changes that turn out to be made by the settings
    for prepared in (False, True) if of_entry else (False,):
        change(os.environ, difference(os.environ, started_with))
        change(os.environ, of_entry if prepared else {})
        loaded = hook.is_loaded_by(_directly)
        by_settings = difference(hook.environ, os.environ)
        of_entry = {name: value for name, value in of_entry.items() if name not in by_settings}
        if loaded:
            return _answer(of_entry)
    error = hook.error
    for module in _applications(request):
        if hook.is_reached_by(lambda module=module: import_module(module)):  # type: ignore[misc]
            error = hook.error
            break
    return _answer(of_entry) if error is None else Answer(error=in_short(error))


def _run(request: Request) -> None:
    """Run manage.py up to the settings. If it does not stop there, it only prints a help text."""
    sys.argv = [request.entry, *request.entry_arguments, "--settings", request.module, "--help"]
    runpy.run_path(request.entry, run_name="__main__")


def _directly() -> None:
    import_module(DJANGO).settings._setup()


def _applications(request: Request) -> Iterator[str]:
    """Yield the existing modules of the project's applications: the named ones, then those of startproject."""
    package = request.module.partition(".")[0]
    for name in dict.fromkeys((*request.applications, f"{package}.wsgi", f"{package}.asgi")):
        module = name.partition(":")[0]
        try:
            exists = importlib.util.find_spec(module) is not None
        except BaseException:
            exists = False
        if exists:
            yield module


def _answer(environ: dict[str, str | None]) -> Answer:
    settings = import_module(DJANGO).settings  # looked up late: the settings may have replaced the object
    setting = getattr(settings, "WORKERGUARD", {})
    try:
        json.dumps(setting, default=plain)
    except (TypeError, ValueError) as error:
        return Answer(wrong=f"it contains a value that cannot be passed to the server: {error}")
    return Answer(
        setting=setting,
        applications=applications_of(settings),
        debug=bool(getattr(settings, "DEBUG", False)),
        environ=environ,
    )
