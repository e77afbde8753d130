"""Monitors: where they listen, what they answer, which processes they are."""

from __future__ import annotations

import http.client
import re
import time
from pathlib import Path

from django_workerguard.probe.process import start_time
from tests.process.harness import Reply, UnixConnection


def places(server) -> list[str]:
    """Return the addresses at which the monitor has listened, the newest last."""
    return re.findall(r"Monitor listens at: (\S+)", server.log)


def ask(place: str, path: str, headers: dict[str, str] | None = None) -> Reply:
    kind, _, rest = place.partition(":")
    if kind == "unix":
        connection = UnixConnection(Path(rest), 20)
    else:
        host, _, port = rest.removeprefix("//").rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read().decode())
    finally:
        connection.close()


def monitors(server, arbiter: int | None = None) -> list[int]:
    """Return the pids of the monitors of an arbiter."""
    arbiter = arbiter or server.arbiter
    children = Path(f"/proc/{arbiter}/task/{arbiter}/children").read_text().split()
    return [int(pid) for pid in children if is_monitor(int(pid))]


def is_monitor(pid: int) -> bool:
    return b"workerguard-monitor" in command_line(pid)


def command_line(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended.

    It is empty too for a moment after the exec, in which the kernel has not written it.
    """
    while True:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return b""
        if command or not start_time(pid):
            return command
        time.sleep(0.001)
