"""Runner of the processes that send notices. Runs in the arbiter.

One process at a time gets the notice as JSON on its standard input. It is killed if it takes too
long. The arbiter never waits for it, and uses neither a thread nor a fork that continues in Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.program import execute
from django_workerguard.config import interpreter
from django_workerguard.config.handover import Handover
from django_workerguard.config.memfd import open_anonymous
from django_workerguard.config.options import GuardOptions
from django_workerguard.policy.reason import Reason
from django_workerguard.report.verdict import LEAVING

ASSESS_EVERY = 2.0  # seconds
POLL_EVERY = 0.05  # seconds, while `finish` waits for receivers
LONGEST_RUN = 30.0  # seconds until a process is killed
# variables that receivers do not get: those of systemd, and the health token
PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "WORKERGUARD_HEALTH_TOKEN")
SENDERS = "django_workerguard.notify.senders"
SERVER = ("name", "host", "project", "worker_class", "release", "ready", "target")


class Notifier:
    """Receivers, reported findings and running processes. Times are of the arbiter's clock."""

    def __init__(self) -> None:
        self._log: Any = None
        self._targets: Sequence[str] = ()
        self._interval = 0.0
        self._environ: dict[str, str] = {}
        self._path = ""  # the import path, as JSON
        self._findings: Any = None  # the module; only a server that notifies somebody needs it
        self._notices: Any = None
        self._assessed_at = self._reported_at = float("-inf")
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._running: dict[int, tuple[str, float]] = {}  # by pid: kind, and when it is killed

    def configure(self, options: GuardOptions, handover: Handover, log: Any) -> None:
        """Set the receivers and the interval, at the start and at each reload."""
        self._targets, self._interval, self._log = options.notify, options.notify_interval, log
        self._environ = {"PYTHONPATH": os.pathsep.join(handover.sys_path)}
        self._path = json.dumps(handover.sys_path)
        if handover.settings_module:
            self._environ["DJANGO_SETTINGS_MODULE"] = handover.settings_module
        if self._targets and self._notices is None:
            self._findings = import_module("django_workerguard.report.findings")
            self._notices = import_module("django_workerguard.notify.notice").Notices({}, {})

    def tick(self, read_snapshot: Callable[[], Mapping[str, Any]], now: float) -> None:
        """Start the next process, or assess a new snapshot if it is time to."""
        if self._running:
            self._end_overdue(now)
        elif self._waiting:
            self._start(*self._waiting.popleft(), now)
        elif self._targets and now - self._assessed_at >= ASSESS_EVERY:
            self._assessed_at = now
            self._assess(read_snapshot(), now)

    def _assess(self, shot: Mapping[str, Any], now: float) -> None:
        if shot["arbiter"]["phase"] in LEAVING:
            return
        findings = self._findings.assess(shot)
        if not shot["quorum_reached"]:  # a start is not reported, unless it fails
            findings = [finding for finding in findings if finding.code != "below-quorum"]
        self._notices = self._notices.update(findings, now)
        if now - self._reported_at < self._interval or not self._notices.due(findings, now):
            return
        self._reported_at = now
        self._notices, notice = self._notices.report(findings)
        message = _encoded(shot, notice)
        self._waiting.extend((target, message) for target in self._targets)

    def give_up(self, shot: Mapping[str, Any], reason: Reason, now: float) -> None:
        """Start all receivers at once, because the server ends without an application. `finish` waits for them."""
        self._waiting.clear()
        if not self._targets:
            return
        finding = asdict(self._findings.gave_up(shot, str(reason)))
        message = _encoded(shot, {"appeared": [finding], "cleared": [], "standing": [finding]})
        for target in self._targets:
            self._start(target, message, now)

    def _start(self, target: str, message: bytes, now: float) -> None:
        kind, _, rest = target.partition(":")
        sender = interpreter.command(SENDERS, kind)
        environ = {**{k: v for k, v in os.environ.items() if not k.startswith(PRIVATE)}, **self._environ}
        try:
            if kind == "command":
                pid = _execute(shlex.split(rest), message, environ)
            else:
                pid = _execute(sender, message, {**environ, "NOTIFY_TARGET": rest, "NOTIFY_PATH": self._path})
        except (OSError, ValueError) as error:
            self._log.error("notify: %s cannot be run: %s", kind, error, extra={"action": "notify-failed"})
        else:
            self._running[pid] = kind, now + LONGEST_RUN

    def _end_overdue(self, now: float) -> None:
        for pid, (_, until) in self._running.items():
            if now > until:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)

    def finish(self, patience: float) -> None:
        """Wait until every running receiver has ended, at most ``patience`` seconds.

        A receiver that still runs when the arbiter ends is killed with it, in a container and by systemd.
        """
        deadline = time.monotonic() + patience
        while self._running and time.monotonic() < deadline:
            for pid in list(self._running):
                with contextlib.suppress(ChildProcessError):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        self.ended(pid, status)
                    continue
                del self._running[pid]
            time.sleep(POLL_EVERY)
        for pid, (kind, _) in self._running.items():
            self._log.error(
                "notify: %s (pid %d) did not end in time", kind, pid, extra={"action": "notify-failed"}
            )

    def ended(self, pid: int, status: int) -> bool:
        """Record that a child has ended. Return whether it was a receiver."""
        if pid not in self._running:
            return False
        end, (kind, _) = Exit.of(status), self._running.pop(pid)
        if not end.clean:
            why = f"{end} (the limit is {LONGEST_RUN:g} s)" if end.signal == signal.SIGKILL else str(end)
            self._log.error("notify: %s failed: %s", kind, why, extra={"action": "notify-failed"})
        return True


def _encoded(shot: Mapping[str, Any], notice: Mapping[str, Any]) -> bytes:
    server = {key: shot[key] for key in SERVER} | {"generation": shot["arbiter"]["generation"]}
    return json.dumps({"at": shot["at"], "server": server, **notice}).encode()


def _execute(arguments: Sequence[str], message: bytes, environ: Mapping[str, str]) -> int:
    """Start a program in a process group of its own, with ``message`` on its standard input. Raises OSError."""
    fd = open_anonymous("workerguard-notice")
    try:
        os.write(fd, message)
        os.lseek(fd, 0, os.SEEK_SET)
        return execute(arguments, environ, descriptors={0: fd}, group=True)
    finally:
        os.close(fd)
