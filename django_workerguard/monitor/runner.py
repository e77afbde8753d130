"""The start and the end of the monitor's process, and its listener. Runs in the arbiter.

The arbiter binds the address, so that a wrong one refuses the start or the reload, and answers nothing itself: it must never
wait for a client. This module is imported only where there is a monitor.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_workerguard.arbiter.event_log import EventLog
from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.final_kill import kill_and_collect
from django_workerguard.arbiter.program import execute
from django_workerguard.config.memfd import open_anonymous, write_all
from django_workerguard.config.monitor_address import MonitorAddress, MonitorSettings
from django_workerguard.errors import CannotListenError
from django_workerguard.monitor.listener import File, Listener, remove_file
from django_workerguard.policy.backoff import back_off
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.discovery import read_header
from django_workerguard.scoreboard.header import Header, Phase

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
GOOD_LIFE = 10.0  # seconds after which the end of the process is not one of a series
ABOVE_TARGETS = 10  # the lowest number of a descriptor that is passed on
# The standard library and this package are enough: no file of site-packages can take the place of a module.
PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from django_workerguard.monitor.process import main; main()"
)
# the variables that the process gets: none has a secret
KEPT = (
    *("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"),
    *("PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
    *("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR", "WORKERGUARD_RUN_DIR"),
)


class Monitor:
    """The listener and the process of one arbiter. Times are of the arbiter's clock."""

    def __init__(self, board: Board, *, event_log: Callable[[], EventLog]) -> None:
        """``event_log`` is called once events happen: the arbiter has none yet when it makes the monitor."""
        self._board = board
        self._event_log = event_log
        self._log: Any = None
        self._settings = MonitorSettings()
        self._is_open = False
        self._listener: Listener | None = None
        self._predecessor: str | None = (
            None  # the board of the arbiter that was sent SIGUSR2 and has the same listener
        )
        self._left: tuple[str, File] | None = None  # a socket file of that arbiter's, at another address
        self._pid = 0
        self._started_at = 0.0
        self._ended_by_us: set[int] = set()
        self._strikes = 0
        self._due_at = float("-inf")

    def configure(self, settings: MonitorSettings, log: Any) -> None:
        """Take the settings, at the start and at each reload. Raises CannotListenError, and has changed nothing then."""
        self._log = log
        before = self._settings
        if self._is_open:
            self._follow(settings)
        self._settings = settings
        if settings != before:
            self._end_process()
            self._due_at = float("-inf")
            self._count(0)

    def open(self, inherited: Mapping[str, Any]) -> None:
        """Begin to listen. ``inherited``: what `handed_over` gave to this arbiter. Raises CannotListenError."""
        if inherited:
            self._adopt(inherited)
        self._is_open = True
        self._follow(self._settings)

    def _adopt(self, inherited: Mapping[str, Any]) -> None:
        address = MonitorAddress.parse(inherited["address"])
        file = tuple(inherited["file"]) if inherited["file"] else None
        sock = socket.socket(fileno=inherited["fd"])
        sock.set_inheritable(False)
        if address is not None and address == self._settings.address:
            self._listener = Listener(address, sock, file)
            self._predecessor = inherited["board"]
            return
        sock.close()
        if address is not None and file is not None:
            self._left = address.path, file

    def _follow(self, settings: MonitorSettings) -> None:
        """Listen at the address of the settings, and at no other."""
        address, before = settings.address, self._listener
        if before is not None and before.address == address:
            return
        self._listener = None if address is None else self._opened(address, settings)
        if before is not None:
            before.close()
        if self._listener is not None:
            self._log.info("Monitor listens at: %s", self._listener)

    def _opened(self, address: MonitorAddress, settings: MonitorSettings) -> Listener:
        try:
            return Listener.open(address, uid=settings.uid, gid=settings.gid)
        except OSError as error:
            from django_workerguard.arbiter.bind_hint import bind_hint  # imported late: it is seldom needed

            raise CannotListenError(
                f"cannot listen at {address}: {error.strerror}",
                option="monitor-bind",
                where=settings.where,
                hint=bind_hint(error, address.path),
            ) from None

    # the process

    def tick(self, now: float, *, has_predecessor: bool, retiring: bool) -> None:
        """Start the process if it is due.

        After SIGUSR2 two arbiters have one listener, and the older one's monitor answers until that arbiter stops.
        ``has_predecessor``: the older one still lives. ``retiring``: this is the older one, and it stops.
        """
        if retiring or self._waits_for_predecessor(alive=has_predecessor):
            self._end_process()
        elif self._pid:
            if self._strikes and now - self._started_at >= GOOD_LIFE:
                self._count(0)
        elif self._listener is not None and now >= self._due_at:
            self._started_at = now
            try:
                self._pid = self._start(self._listener)
            except OSError as error:
                self._event_log().monitor_not_started(error.strerror or str(error), self._wait(now))

    def _waits_for_predecessor(self, *, alive: bool) -> bool:
        if self._predecessor is None:
            return False
        words = read_header(self._predecessor) if alive else None
        if alive and (words is None or words[Header.PHASE] in (Phase.STARTING, Phase.SERVING)):
            return True
        self._predecessor = None
        return False

    def ended(self, pid: int, status: int, now: float) -> bool:
        """Record that a child has ended. Return whether it was the monitor."""
        if pid in self._ended_by_us:
            self._ended_by_us.remove(pid)
            return True
        if pid != self._pid:
            return False
        self._pid = 0
        if now - self._started_at >= GOOD_LIFE:
            self._count(0)
        self._event_log().monitor_ended(pid, Exit.of(status), self._wait(now))
        return True

    def _count(self, strikes: int) -> None:
        """Count the ends and the starts that failed in a row, for the readers too."""
        self._strikes = self._board.words[Header.MONITOR_FAILURES] = strikes

    def _wait(self, now: float) -> float:
        self._count(self._strikes + 1)
        wait = back_off(self._strikes, slot=0, first=FIRST_WAIT, longest=LONGEST_WAIT, transient=True)
        self._due_at = now + wait
        return wait

    def _end_process(self) -> None:
        if self._pid:
            self._ended_by_us.add(self._pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, signal.SIGTERM)  # it still answers what it has accepted
            self._pid = 0

    def _start(self, listener: Listener) -> int:
        settings = self._settings
        content = {
            "parent": os.getpid(),
            "uid": settings.uid,
            "gid": settings.gid,
            "token": settings.token,
            "local": not listener.address.path and not listener.address.is_public,
            "project": settings.project,
            "run_dir": settings.run_dir,
        }
        root = str(Path(__file__).parents[2])
        arguments = [sys.executable, "-P", "-s", "-S", "-c", PROGRAM, root, "workerguard-monitor"]
        environ = {name: os.environ[name] for name in KEPT if name in os.environ}
        with contextlib.ExitStack() as opened:

            def passed(fd: int, *, ours: bool = True) -> int:
                """Return a copy whose number is none of those that the descriptors get in the process."""
                if ours:
                    opened.callback(os.close, fd)
                copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, ABOVE_TARGETS)
                opened.callback(os.close, copy)
                return copy

            memory = passed(open_anonymous("workerguard-monitor"))
            write_all(memory, json.dumps(content).encode())
            descriptors = {
                0: memory,
                3: passed(listener.socket.fileno(), ours=False),
                4: passed(self._board.open_again()),
            }
            return execute(arguments, environ, descriptors=descriptors, group=True)

    # the end, and a second arbiter

    def surrender(self) -> int:
        """Give the listener's descriptor up, in a child: it must not be closed again when its number is another's."""
        return -1 if self._listener is None else self._listener.socket.detach()

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[dict[str, Any]]:
        """Make the listener inheritable, for the arbiter that SIGUSR2 starts, and give what that one needs to know."""
        listener = self._listener
        if listener is None:
            yield {}
            return
        listener.socket.set_inheritable(True)
        try:
            yield {
                "fd": listener.socket.fileno(),
                "address": str(listener.address),
                "file": listener.file,
                "board": str(self._board.path or ""),
            }
        finally:
            listener.socket.set_inheritable(False)

    def close(self, *, alone: bool) -> None:
        """End the process and stop to listen. Unless ``alone``, another arbiter has the same listener."""
        self._end_process()
        kill_and_collect(self._ended_by_us)
        self._ended_by_us.clear()
        listener, self._listener = self._listener, None
        if listener is not None and alone:
            listener.close()
        if self._left is not None and alone:
            remove_file(*self._left)
