"""systemd's protocol sd_notify: READY, STATUS, RELOADING, STOPPING, more time, and the watchdog. Runs in the arbiter.

Lines are sent in a datagram, without waiting: a systemd that does not read them does not hold up the server.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Container, Iterator, Mapping

from django_workerguard.values import value_class

MORE_TIME = 30_000_000  # µs from now, asked for while loads go on
MORE_TIME_EVERY = 5.0  # seconds


@value_class
class ServerStatus:
    """The part of the server's status that systemd gets."""

    ready: int
    target: int
    reached: bool  # the quorum, once since the start
    reloading: bool
    stopping: bool
    why: str = ""  # why the last load failed
    frozen: bool = False
    successor: int = 0  # the pid of the arbiter that takes over after SIGUSR2; 0: none

    @property
    def text(self) -> str:
        text = f"{self.ready} of {self.target} workers ready"
        if self.frozen:
            text += "; frozen: the new code cannot load, the old code continues to serve"
        return f"{text}; {self.why}" if self.why and (self.frozen or self.ready < self.target) else text


def changes(before: ServerStatus | None, now: ServerStatus, *, monotonic_us: int) -> list[str]:
    """Return the lines for a change of the status; none if nothing has changed. Pure."""
    lines: list[str] = []
    if now.stopping and now.successor:  # the service goes on: it has another main process from here on
        return [] if before is not None and before.stopping else [f"MAINPID={now.successor}"]
    if now.stopping:
        if before is None or not before.stopping:
            lines.append("STOPPING=1")
    elif now.reloading and now.reached and not (before and before.reloading):
        lines += ["RELOADING=1", f"MONOTONIC_USEC={monotonic_us}"]
    elif now.reached and (before is None or not before.reached or (before.reloading and not now.reloading)):
        lines.append("READY=1")
    if before is None or before.text != now.text or lines:
        lines.append(f"STATUS={' '.join(now.text.split())}")
    return lines


def _not_the_main_process(environ: Mapping[str, str], started: Container[str]) -> str:
    """Return a warning if this process is only a child of the one that systemd has started; otherwise "". Pure."""
    for name in ("SYSTEMD_EXEC_PID", "WATCHDOG_PID"):
        other = environ.get(name)
        if other and other not in started:
            return (
                f"NOTIFY_SOCKET is set, but systemd has started process {other} ({name}), not this one: with "
                "NotifyAccess=main systemd ignores the messages of this server. Start the server with exec, or set NotifyAccess=all"
            )
    return ""


class Systemd:
    """systemd's socket, and the status that was sent last."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # after SIGUSR2 the arbiter before is the process that systemd has started
        started = {str(pid), environ.get("GUNICORN_PID", "")}
        watched = environ.get("WATCHDOG_PID", str(pid)) in started
        self.warning = _not_the_main_process(environ, started) if self._address else ""
        micros = environ.get("WATCHDOG_USEC", "0")
        self._watchdog = int(micros) / 2e6 if watched and micros.isdigit() else 0.0  # seconds; 0: none
        self._last: ServerStatus | None = None
        self._more_time_at = self._watched_at = float("-inf")

    def main_pid(self, pid: int) -> None:
        """Tell systemd the main process, and send the whole status again at the next tick."""
        if self._address:
            self._send(f"MAINPID={pid}")
            self._last = None

    def update(self, status: ServerStatus, now: float, *, monotonic_us: int) -> None:
        """Send what has changed, ask for more time during a start, a reload or a stop, and feed the watchdog."""
        if not self._address:
            return
        lines = [*changes(self._last, status, monotonic_us=monotonic_us), *self._regularly(status, now)]
        self._last = status
        if lines:
            self._send("\n".join(lines))

    def _regularly(self, status: ServerStatus, now: float) -> Iterator[str]:
        if status.stopping and status.successor:
            return
        under_way = not status.reached or status.reloading or status.stopping
        if under_way and now - self._more_time_at >= MORE_TIME_EVERY:
            self._more_time_at = now
            yield f"EXTEND_TIMEOUT_USEC={MORE_TIME}"
        if self._watchdog and now - self._watched_at >= min(self._watchdog, 1.0):
            self._watched_at = now
            yield "WATCHDOG=1"

    def _send(self, message: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
