"""systemd: an honest READY over a real datagram socket, and sockets that it has opened."""

from __future__ import annotations

import socket
import sys
import urllib.request
from pathlib import Path

import pytest

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
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def notify(tmp_path: Path):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(30)
        yield receiver


def test_ready_is_told_when_the_quorum_is_loaded(serve, faults, notify):
    faults.set("ready", "memory", 3)
    server = serve("--min-loaded", "2", environ={"NOTIFY_SOCKET": notify.getsockname()})
    told = notify.recv(4096).decode()
    assert told.startswith("READY=1")
    status = server.status()
    assert status["quorum_reached"]
    assert len(server.events("ready")) >= 2
    assert len(server.events("load-failed")) == 3


def test_ready_is_not_told_by_a_server_that_cannot_load(serve, faults, notify):
    faults.set("ready", "exception")
    server = serve("--load-retries", "2", environ={"NOTIFY_SOCKET": notify.getsockname()})
    assert server.wait_exit() == 22
    notify.setblocking(False)
    with pytest.raises(BlockingIOError):
        notify.recv(4096)


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
