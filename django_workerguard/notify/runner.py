"""Notify somebody when a finding appears or clears, by a process that the arbiter executes. Runs in the arbiter.

One process at a time, with the notice as JSON on its standard input; it is ended when it takes
too long. Never a fork that goes on in Python, never a thread, and nothing is waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django_workerguard.arbiter.exits import Exit
from django_workerguard.arbiter.program import execute
from django_workerguard.config.handover import Handover
from django_workerguard.config.memfd import open_anonymous
from django_workerguard.config.options import GuardOptions
from django_workerguard.notify.notice import Notices
from django_workerguard.policy.reason import Reason
from django_workerguard.report.findings import Finding, assess

LEAVING = ("draining", "stopping")
LOOK_EVERY = 2.0  # seconds
LOOK = 0.05  # seconds between two looks at receivers that are waited for
LONGEST_RUN = 30.0  # seconds that a process gets
# of the environment: what is between systemd and this server, and who may read its health
SERVERS_OWN = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "WORKERGUARD_HEALTH_TOKEN")
READY_MADE = "django_workerguard.notify"
SERVER = ("name", "host", "project", "worker_class", "release", "ready", "target")


class Notifier:
    """Who is notified, what they were told, and the process that tells them now. Times are of the arbiter's clock."""

    def __init__(self) -> None:
        self._log: Any = None
        self._targets: Sequence[str] = ()
        self._interval = 0.0
        self._environ: dict[str, str] = {}
        self._notices = Notices({}, {})
        self._looked = self._told_at = float("-inf")
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._running: dict[int, tuple[str, float]] = {}  # by pid: kind, and when it is ended

    def configure(self, options: GuardOptions, handover: Handover, log: Any) -> None:
        """Take whom to notify and how often at most; a reload does so again."""
        self._targets, self._interval, self._log = options.notify, options.notify_interval, log
        self._environ = {"PYTHONPATH": os.pathsep.join(handover.sys_path)}
        if handover.settings_module:
            self._environ["DJANGO_SETTINGS_MODULE"] = handover.settings_module

    def tick(self, look: Callable[[], Mapping[str, Any]], now: float) -> None:
        """Look whether there is something new, where it is time to; ``look`` returns a snapshot."""
        if self._running:
            self._end_overdue(now)
        elif self._waiting:
            self._start(*self._waiting.popleft(), now)
        elif self._targets and now - self._looked >= LOOK_EVERY:
            self._looked = now
            self._look(look(), now)

    def _look(self, shot: Mapping[str, Any], now: float) -> None:
        if shot["arbiter"]["phase"] in LEAVING:
            return  # it is meant to have ever fewer workers
        findings = assess(shot)
        if not shot["quorum_reached"]:  # a start is no news, unless it fails
            findings = [finding for finding in findings if finding.code != "below-quorum"]
        self._notices = self._notices.see(findings, now)
        if now - self._told_at < self._interval or not self._notices.due(findings, now):
            return
        self._told_at = now
        self._notices, notice = self._notices.tell(findings)
        told = _notice(shot, notice)
        self._waiting.extend((target, told) for target in self._targets)

    def give_up(self, shot: Mapping[str, Any], reason: Reason) -> None:
        """Start all receivers at once: the server ends because it has no application. `finish` waits for them."""
        self._waiting.clear()
        finding = asdict(Finding("critical", "gave-up", None, str(reason)))
        told = _notice(shot, {"appeared": [finding], "cleared": [], "standing": [finding]})
        for target in self._targets:
            self._start(target, told, 0.0)

    def _start(self, target: str, told: bytes, now: float) -> None:
        kind, _, rest = target.partition(":")
        own = [sys.executable, "-P", "-m", READY_MADE, kind]
        environ = {**{k: v for k, v in os.environ.items() if not k.startswith(SERVERS_OWN)}, **self._environ}
        try:
            if kind == "command":
                pid = _execute(shlex.split(rest), told, environ)
            else:
                pid = _execute(own, told, {**environ, "NOTIFY_TARGET": rest})
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
        """Wait until every receiver that runs has ended, at most ``patience`` seconds.

        What runs when the arbiter ends is killed with it, as process 1 of a container and by systemd.
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
            time.sleep(LOOK)
        for pid, (kind, _) in self._running.items():
            self._log.error("notify: %s (pid %d) has not ended", kind, pid, extra={"action": "notify-failed"})

    def ended(self, pid: int, status: int) -> bool:
        """Take note that a child has ended; return whether it was one of these."""
        if pid not in self._running:
            return False
        end, (kind, _) = Exit.of(status), self._running.pop(pid)
        if not end.clean:
            why = f"{end} (it gets {LONGEST_RUN:g} s)" if end.signal == signal.SIGKILL else str(end)
            self._log.error("notify: %s failed: %s", kind, why, extra={"action": "notify-failed"})
        return True


def _notice(shot: Mapping[str, Any], notice: Mapping[str, Any]) -> bytes:
    server = {key: shot[key] for key in SERVER} | {"generation": shot["arbiter"]["generation"]}
    return json.dumps({"at": shot["at"], "server": server, **notice}).encode()


def _execute(arguments: Sequence[str], told: bytes, environ: Mapping[str, str]) -> int:
    """Start a program in a process group of its own, with ``told`` on its standard input. Raises OSError."""
    fd = open_anonymous("workerguard-notice")
    try:
        os.write(fd, told)
        os.lseek(fd, 0, os.SEEK_SET)
        return execute(arguments, environ, descriptors={0: fd}, group=True)
    finally:
        os.close(fd)
