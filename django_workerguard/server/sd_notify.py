"""What systemd is told: when the server is ready, how it stands, that it needs more time, that it ticks. Runs in the arbiter.

The protocol is that of sd_notify(3): lines in a datagram. It is sent without waiting, so that
a supervisor that does not listen holds up nobody.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

MORE_TIME = 30_000_000  # µs from now, asked for while loads go on
MORE_TIME_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class ServerStatus:
    """How the server stands, as far as a supervisor wants to know."""

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
        said = f"{self.ready} of {self.target} workers ready"
        if self.frozen:
            said += "; frozen: the new code cannot be loaded, the old serves on"
        return f"{said}; {self.why}" if self.why and (self.frozen or self.ready < self.target) else said


def changes(before: ServerStatus | None, now: ServerStatus, *, monotonic_us: int) -> list[str]:
    """Return the lines that tell of a change; none where nothing has changed. Pure."""
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
    """Return a warning if systemd has started another process, whose child this one is; "" if not. Pure."""
    for name in ("SYSTEMD_EXEC_PID", "WATCHDOG_PID"):
        other = environ.get(name)
        if other and other not in started:
            return (
                f"NOTIFY_SOCKET is set, but systemd has started process {other} ({name}), not this one: with "
                "NotifyAccess=main it ignores what this server says. Start the server with exec, or set NotifyAccess=all"
            )
    return ""


class Systemd:
    """The socket of systemd's, and what it was told last."""

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
        """Tell systemd which process it watches now, and at the next occasion how that stands."""
        if self._address:
            self._send(f"MAINPID={pid}")
            self._last = None

    def tell(self, standing: ServerStatus, now: float, *, monotonic_us: int) -> None:
        """Tell what has changed, ask for more time where a start or an end takes it, and show that the arbiter ticks."""
        if not self._address:
            return
        lines = [*changes(self._last, standing, monotonic_us=monotonic_us), *self._regularly(standing, now)]
        self._last = standing
        if lines:
            self._send("\n".join(lines))

    def _regularly(self, standing: ServerStatus, now: float) -> Iterator[str]:
        if standing.stopping and standing.successor:
            return
        under_way = not standing.reached or standing.reloading or standing.stopping
        if under_way and now - self._more_time_at >= MORE_TIME_EVERY:
            self._more_time_at = now
            yield f"EXTEND_TIMEOUT_USEC={MORE_TIME}"
        if self._watchdog and now - self._watched_at >= min(self._watchdog, 1.0):
            self._watched_at = now
            yield "WATCHDOG=1"

    def _send(self, message: str) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
