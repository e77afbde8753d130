"""Functions of the standard library that a configuration replaces, as gevent's `monkey.patch_all` does. Runs in the arbiter.

The arbiter must not work with them: gevent's `os.waitpid` does not know the processes that a mold has forked, and gevent's
`time.sleep` runs an event loop, of which each child would get a copy. Its children get them, as gunicorn's do.
"""

from __future__ import annotations

import contextlib
import posix
import sys
from collections.abc import Iterator, Mapping
from typing import Any

# not `threading`: it holds the state of the threads, which belongs to one of the two sets of functions
MODULES = {"os", "select", "selectors", "signal", "socket", "ssl", "subprocess", "time"}
ABSENT = object()  # in place of a function that was removed
Name = tuple[str, str]  # of the module and of the function


class ReplacedFunctions:
    """What configurations have put in the place of functions so far."""

    def __init__(self) -> None:
        self._theirs: dict[Name, Any] = {}
        self._ours: dict[Name, Any] = {}

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the replaced functions in place in the block, in which others may be replaced."""
        before = {
            (module, name): function
            for module in sys.modules.keys() & MODULES
            for name, function in vars(sys.modules[module]).items()
            if callable(function)
        }
        self._put({key: it for key, it in self._theirs.items() if before.get(key) is self._ours[key]})
        try:
            yield
        finally:
            for key, function in before.items():
                now = vars(sys.modules[key[0]]).get(key[1], ABSENT)
                if now is not function:
                    self._theirs[key] = now
                    self._ours.setdefault(key, function)
                    self._put({key: function})

    def fork(self) -> int:
        """Fork. The child has the replaced functions in place, and so has what runs at a fork. Raises OSError."""
        self._put(self._theirs)
        pid = -1
        try:
            pid = posix.fork()  # os.fork may be one of them
        finally:
            if pid != 0:
                self._put(self._ours)
        return pid

    @staticmethod
    def _put(functions: Mapping[Name, Any]) -> None:
        for (module, name), function in functions.items():
            if function is ABSENT:
                vars(sys.modules[module]).pop(name, None)
            else:
                setattr(sys.modules[module], name, function)
