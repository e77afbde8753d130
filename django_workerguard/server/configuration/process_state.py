"""What a configuration changes in the process that reads it: directory, import path, environment. Runs in the arbiter."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from django_workerguard.config.environment import change, difference
from django_workerguard.server.configuration.inherited_modules import InheritedModules, release


class ProcessState:
    """The state of this process, and the way back to it."""

    def __init__(self) -> None:
        self._environ = dict(os.environ)
        self._path = list(sys.path)
        self._pwd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def restore(self) -> None:
        """Bring everything back as it was."""
        os.fchdir(self._pwd)
        sys.path[:] = self._path
        change(os.environ, difference(os.environ, self._environ))

    def close(self) -> None:
        os.close(self._pwd)


class ReloadTrial:
    """A reload on trial: the site's modules are dropped, and all is as before if it does not succeed."""

    def __init__(self, inheritance: InheritedModules) -> None:
        self._inheritance = inheritance
        self._surroundings = ProcessState()
        self._dropped = inheritance.drop()
        self._handlers = KeptHandlers()

    def take_back(self) -> None:
        """Bring modules, directory, import path and environment back as they were."""
        self._inheritance.bring_back(self._dropped)
        self._dropped = {}
        self._surroundings.restore()

    def end(self) -> None:
        release(self._dropped)
        self._dropped = {}
        self._handlers.release()
        self._surroundings.close()


class KeptHandlers:
    """While it lasts, the signals that this process handles stay handled, whatever a configuration asks for.

    A signal that came between the configuration's handler and ours would be lost: a stop, for example.
    """

    def __init__(self) -> None:
        self._set = signal.signal
        self._kept = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
        signal.signal = self._set_other  # type: ignore[assignment]

    def _set_other(self, number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number in self._kept else self._set(number, handler)

    def release(self) -> None:
        signal.signal = self._set
        self._kept.clear()  # for who has imported the function meanwhile


def enter(directory: str, path: list[str], environ: Mapping[str, str | None]) -> None:
    """Go to the directory by its name, whatever a link in it leads to by now, and take import path and environment."""
    if directory:
        os.chdir(directory)
        os.environ["PWD"] = directory
    sys.path[:] = path
    change(os.environ, environ)
