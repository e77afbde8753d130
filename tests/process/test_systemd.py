"""systemd: an honest READY over a real datagram socket, and sockets that it has opened."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.process.commands import order
from tests.process.harness import Server

# what systemd does before it starts a unit: the sockets from descriptor 3 on, and whose they are
ACTIVATE = """
import os, socket, sys
kind, address = sys.argv[1].split("=", 1)
listener = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
listener.bind(address if kind == "unix" else ("127.0.0.1", 0))
listener.listen(64)
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
at = sys.argv.index("--bind")
del sys.argv[at : at + 2]
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def notify(tmp_path: Path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(30)
        yield receiver


def listen(notify: socket.socket, until: str) -> list[str]:
    """Return the lines that were told, up to one that begins so."""
    lines: list[str] = []
    while not any(line.startswith(until) for line in lines):
        lines += notify.recv(4096).decode().splitlines()
    return lines


def test_ready_is_told_when_the_quorum_is_loaded(serve, faults, notify):
    faults.set("ready", "memory", 3)
    server = serve("--min-loaded", "2", environ={"NOTIFY_SOCKET": notify.getsockname()})
    told = listen(notify, "READY=1")
    assert server.status()["quorum_reached"]
    assert len(server.events("ready")) >= 2
    assert len(server.events("load-failed")) == 3
    assert told[0] == "STATUS=0 of 2 workers ready"
    assert "EXTEND_TIMEOUT_USEC=30000000" in told, "a start that takes its time is not a start that hangs"
    assert any("the load failed in step app: MemoryError" in line for line in told)
    assert "STATUS=2 of 2 workers ready" in told


def test_ready_is_not_told_by_a_server_that_cannot_load(serve, faults, notify):
    faults.set("ready", "exception")
    server = serve("--load-retries", "2", environ={"NOTIFY_SOCKET": notify.getsockname()})
    assert server.wait_exit() == 22
    told = listen(notify, "STOPPING=1")
    assert "READY=1" not in told


def test_a_reload_and_a_stop_are_told(serve, notify):
    server = serve(environ={"NOTIFY_SOCKET": notify.getsockname()})
    listen(notify, "READY=1")
    server.signal(signal.SIGHUP)
    told = listen(notify, "RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in told)
    listen(notify, "READY=1")
    server.wait_event("reloaded")
    server.signal(signal.SIGTERM)
    listen(notify, "STOPPING=1")
    assert server.wait_exit() == 0


def test_a_reload_that_cannot_load_is_over_when_it_is_frozen(serve, faults, notify):
    server = serve(environ={"NOTIFY_SOCKET": notify.getsockname()})
    listen(notify, "READY=1")
    faults.set("urlconf", "exception")
    server.signal(signal.SIGHUP)
    listen(notify, "RELOADING=1")
    listen(notify, "READY=1")
    assert server.status()["arbiter"]["frozen"]


def test_the_watchdog_stops_with_the_arbiter(serve, notify):
    server = serve(environ={"NOTIFY_SOCKET": notify.getsockname(), "WATCHDOG_USEC": "2000000"})
    listen(notify, "READY=1")
    for _ in range(3):
        listen(notify, "WATCHDOG=1")
    server.signal(signal.SIGSTOP)
    notify.settimeout(3)
    with contextlib.suppress(TimeoutError):
        while notify.recv(4096):  # what was told before it was suspended
            continue
    with pytest.raises(TimeoutError):
        notify.recv(4096)
    server.signal(signal.SIGCONT)
    notify.settimeout(30)
    listen(notify, "WATCHDOG=1")


def test_a_supervisor_that_does_not_listen_holds_up_nobody(serve, tmp_path):
    path = tmp_path / "deaf"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        server = serve(environ={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000"})
        server.wait_ready()
        for _ in range(12):
            server.signal(signal.SIGTTIN)
            server.signal(signal.SIGTTOU)
        # signals that come at once are one: the target may be another one
        server.wait(
            "it ticks on",
            lambda status: status["ready"] == status["target"] and status["arbiter"]["beat_age"] < 2,
        )
        assert server.statuses(5) == {200: 5}


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_sockets_that_systemd_opened_are_served(serve, tmp_path, kind):
    path = tmp_path / "activated.sock"
    server: Server = serve(prefix=(sys.executable, "-c", ACTIVATE, f"{kind}={path}"))
    status = server.wait_ready()
    (address,) = status["bind"]
    if kind == "unix":
        server.socket_path = path
        assert server.statuses(5) == {200: 5}
    else:
        request = urllib.request.Request(address, headers={"Host": "localhost"})
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
    assert server.stop() == 0
    assert kind == "tcp" or path.exists(), "the socket is systemd's, and stays"


def test_a_second_arbiter_serves_on_the_sockets_that_systemd_opened(serve, tmp_path):
    """gunicorn keeps them under other descriptors than those where systemd passes them."""
    path = tmp_path / "activated.sock"
    server: Server = serve(prefix=(sys.executable, "-c", ACTIVATE, f"unix={path}"), project_copy=True)
    server.wait_ready()
    server.socket_path = path
    (server.project / "gunicorn.conf.py").write_text("bind = '127.0.0.1:1'\n")  # it has no effect
    assert order(server, "reload", "--wait").returncode == 0
    first = server.arbiter
    server.signal(signal.SIGUSR2)
    server.wait("the second", lambda status: status["arbiter"]["pid"] != first and status["ready"] == 2)
    assert server.stop() == 0
    assert server.statuses(5) == {200: 5}
    os.kill(server.status()["arbiter"]["pid"], signal.SIGTERM)
    server._poll("nothing is left", lambda: not server._remaining_processes(), 20)
    assert path.exists(), "the socket is systemd's, and stays"
