"""Signals and control requests that the arbiter gets. Runs in the arbiter."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from django_workerguard.arbiter.children import Children
from django_workerguard.arbiter.control_socket import Request
from django_workerguard.arbiter.stack_requests import StackRequests
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.config.handover import rewrite
from django_workerguard.errors import ExitCode
from django_workerguard.policy import message as m
from django_workerguard.server.host import Host
from django_workerguard.server.listeners import File
from django_workerguard.server.reload import Reload


class Signals:
    """Turns signals and requests into messages to the fleet. ``handlers``: by signal number."""

    def __init__(
        self,
        host: Host,
        tracker: Tracker,
        children: Children,
        reload: Reload,
        stack_requests: StackRequests,
        *,
        hand_over_monitor: Callable[[], AbstractContextManager[dict[str, Any]]],
        clock: Callable[[], float],
        handover_fd: int,
        socket_files: Mapping[str, File],
    ) -> None:
        self._host = host
        self._tracker = tracker
        self._children = children
        self._reload = reload
        self._stack_requests = stack_requests
        self._hand_over_monitor = hand_over_monitor
        self._clock = clock
        self._handover_fd = handover_fd
        self._socket_files = socket_files
        self.handlers: Mapping[int, Callable[[], object]] = {
            signal.SIGCHLD: host.reap_dirty_arbiter,  # other children are reaped at every tick
            signal.SIGHUP: lambda: reload.begin("SIGHUP"),
            signal.SIGTERM: lambda: self.stop(quick=False),
            signal.SIGINT: lambda: self.stop(quick=True),
            signal.SIGQUIT: lambda: self.stop(quick=True),
            signal.SIGTTIN: lambda: self.scale(tracker.fleet.target + 1, "SIGTTIN"),
            signal.SIGTTOU: lambda: self.scale(tracker.fleet.target - 1, "SIGTTOU"),
            signal.SIGUSR1: self._reopen_logs,
            signal.SIGUSR2: self._start_second_arbiter,
        }

    def respond(self, request: Request) -> str | None:
        """Do what a control request asks for. Return why it is refused, or None."""
        match request.do:
            case "wake":
                return None
            case "reload":
                return self._reload.begin(request.who)
            case "scale":
                target = request.arguments.get("target")
                if not isinstance(target, int) or isinstance(target, bool):
                    return self._no_scale(f"{target!r} is not a whole number", request.who)
                return self.scale(target, request.who)
            case "recycle":
                return self._tracker.recycle(request.arguments, request.who)
            case "stacks":
                return self._stack_requests.respond(request)
            case _:
                return f"unknown request {request.do!r}"

    def stop(self, *, quick: bool) -> None:
        """Stop the server: with mercy, or ``quick``; a second quick one makes it quicker."""
        tracker = self._tracker
        again = tracker.fleet.stop is not None
        if again and not quick:
            return
        self._reload.give_up()
        tracker.tell(m.StopAsked(self._clock(), quick or again))
        tracker.event_log.stopping(quick=quick, drain_delay=tracker.policy.drain_delay)

    def scale(self, target: int, asked_by: str, *, by_hand: bool = True) -> str | None:
        """Change the target. Return why it is refused, or None."""
        slots, quorum = self._host.board.layout.slots, self._tracker.policy.min_loaded
        if not 1 <= target <= slots:
            return self._no_scale(f"it can be 1 to {slots}", asked_by)
        if target < quorum:
            return self._no_scale(f"the quorum (min-loaded) needs {quorum} workers", asked_by)
        has_changed = target != self._tracker.fleet.target
        self._tracker.tell(m.TargetChanged(target, by_hand))
        self._host.num_workers = target
        if has_changed:
            self._tracker.event_log.scaled(target, asked_by, self._clock())
        return None

    def _no_scale(self, why: str, asked_by: str) -> str:
        refused = f"the target stays {self._tracker.fleet.target}: {why}"
        self._host.log.warning("%s (%s)", refused, asked_by)
        return refused

    def _reopen_logs(self) -> None:
        """Reopen the log files, here and in every worker, each readable for the workers' user first."""
        host = self._host
        host.log.reopen_files()
        self._chown_logs()
        self._children.signal_all(signal.SIGUSR1)
        if host.dirty_arbiter_pid:
            host.kill_dirty_arbiter(signal.SIGUSR1)

    def _chown_logs(self) -> None:
        cfg = self._host.cfg
        if os.geteuid() != 0 or cfg.uid == 0:
            return
        for setting in ("errorlog", "accesslog"):
            path = cfg.settings[setting].get()
            if path and path != "-":
                _hand_over(path, cfg.uid, cfg.gid)

    def _start_second_arbiter(self) -> None:
        host, arbiter = self._host, os.getpid()
        if self._tracker.fleet.stop is not None:  # its listeners may be closed
            host.log.error("SIGUSR2: cannot start a second arbiter: the server is stopping")
            return
        files = {path: list(file) for path, file in self._socket_files.items()}
        try:
            with self._hand_over_monitor() as monitor:
                handover = replace(host.app.handover, socket_files=files, monitor=monitor)
                rewrite(self._handover_fd, handover)
                with _named_by_descriptor(host):
                    host.reexec()
        except OSError as error:
            host.log.error("SIGUSR2: cannot start a second arbiter: %s", error.strerror)
        except BaseException:
            host.log.exception("SIGUSR2: cannot start a second arbiter")
        finally:
            if os.getpid() != arbiter:  # the child that could not become one
                os._exit(ExitCode.UNEXPECTED)


@contextlib.contextmanager
def _named_by_descriptor(host: Host) -> Iterator[None]:
    """Have gunicorn name each socket by its descriptor to the second arbiter.

    For sockets of systemd's it would only give their number, and the second arbiter would look for them from descriptor
    3 on, where gunicorn has not left them.
    """
    theirs, host.systemd = host.systemd, False
    try:
        yield
    finally:
        host.systemd = theirs


def _hand_over(path: str, uid: int, gid: int) -> None:
    """Give a log file to the workers' user; nothing else, which that user may have put there: no link, no second name."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                os.fchown(fd, uid, gid)
        finally:
            os.close(fd)
