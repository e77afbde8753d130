"""Read the settings as the project itself does, and write what the server needs of them. Runs in a process of its own.

``python -m django_workerguard.config.settings_reader FD SECONDS``. The request is in the file, and the answer is
left there. The project's manage.py, if it has started the server, is run up to the point where Django reads the
settings; else the settings are read directly, and if that fails, through the project's WSGI or ASGI module.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from typing import Any, NoReturn

from django_workerguard.config.environment import change, difference
from django_workerguard.config.handover import applications_of, plain
from django_workerguard.config.memfd import read_all, write_all
from django_workerguard.config.redact import in_short
from django_workerguard.config.settings_process import Answer, Request

DJANGO = "django.conf"  # by its name: nothing of this package that a server may import has Django


class EnoughError(BaseException):
    """Django has tried to read the settings: the rest of what the project would do now is not wanted."""


class Moment:
    """The moment at which Django reads the settings: the environment before it, and how it ended."""

    def __init__(self) -> None:
        self.environ: dict[str, str] = {}
        self.error: BaseException | None = None
        self._reading = False
        lazy_settings = import_module(DJANGO).LazySettings
        self._read = lazy_settings._setup
        moment = self

        def setup(settings: Any, name: Any = None) -> None:
            if moment._reading:  # the settings look at themselves while they are read
                moment._read(settings, name)
            else:
                moment._stop_after(settings, name)

        lazy_settings._setup = setup

    def _stop_after(self, settings: Any, name: Any) -> NoReturn:
        self._reading, self.error, self.environ = True, None, dict(os.environ)
        try:
            self._read(settings, name)
        except BaseException as error:
            self.error = error
        finally:
            self._reading = False
        raise EnoughError

    def leads_to_settings(self, way: Callable[[], object]) -> bool:
        """Go a way to the settings, and say whether they could be read."""
        return self.reached_by(way) and self.error is None

    def reached_by(self, way: Callable[[], object]) -> bool:
        """Go a way to the settings, and say whether it came to them. What it raises before is kept."""
        try:
            way()
        except EnoughError:
            return True
        except BaseException as error:
            self.error = error
        return False


def main(fd: int, patience: float) -> NoReturn:
    """Write the answer and end at once: a thread or an exit hook of the settings has nothing to add to it."""
    signal.setitimer(signal.ITIMER_REAL, patience)
    request = Request(**json.loads(read_all(fd)))
    sys.path[:] = request.path
    try:
        told = read(request)
    except BaseException as error:
        told = Answer(error=in_short(error))
    write_all(fd, json.dumps(asdict(told), default=plain).encode())
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)


def read(request: Request) -> Answer:
    """Go the project's ways to its settings, one after the other, until one of them gets there."""
    if request.directory:
        os.chdir(request.directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = request.module
    moment = Moment()
    started_with = dict(os.environ)
    if request.entry and moment.reached_by(lambda: _run(request)):
        if moment.error is not None:
            return Answer(error=in_short(moment.error))
        return _told(difference(started_with, moment.environ))
    return _read_without_entry(request, moment, started_with)


def _read_without_entry(request: Request, moment: Moment, started_with: dict[str, str]) -> Answer:
    """Read the settings directly, else with what the entry once prepared, else through the project's applications."""
    left = request.environ  # of the entry, without what turns out to be the settings' own
    for prepared in (False, True) if left else (False,):
        change(os.environ, difference(os.environ, started_with))
        change(os.environ, left if prepared else {})
        reached = moment.leads_to_settings(_directly)
        by_settings = difference(moment.environ, os.environ)
        left = {name: value for name, value in left.items() if name not in by_settings}
        if reached:
            return _told(left)
    first = moment.error
    for module in _applications(request):
        if moment.reached_by(lambda module=module: import_module(module)):  # type: ignore[misc]
            first = moment.error
            break
    return _told(left) if first is None else Answer(error=in_short(first))


def _run(request: Request) -> None:
    """Run manage.py up to the settings. If it comes further than that, it prints a help text and nothing else."""
    sys.argv = [request.entry, "serve_guarded", "--settings", request.module, "--help"]
    runpy.run_path(request.entry, run_name="__main__")


def _directly() -> None:
    import_module(DJANGO).settings._setup()


def _applications(request: Request) -> Iterator[str]:
    """Yield the modules of the project's applications that exist: those named, then where startproject puts them."""
    package = request.module.partition(".")[0]
    for name in dict.fromkeys((*request.applications, f"{package}.wsgi", f"{package}.asgi")):
        module = name.partition(":")[0]
        try:
            exists = importlib.util.find_spec(module) is not None
        except BaseException:
            exists = False
        if exists:
            yield module


def _told(environ: dict[str, str | None]) -> Answer:
    settings = import_module(DJANGO).settings  # looked up now: the settings may have put another object there
    setting = getattr(settings, "WORKERGUARD", {})
    try:
        json.dumps(setting, default=plain)
    except (TypeError, ValueError) as error:
        return Answer(wrong=f"it holds a value that cannot be handed to the server: {error}")
    return Answer(
        setting=setting,
        applications=applications_of(settings),
        debug=bool(getattr(settings, "DEBUG", False)),
        environ=environ,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
