"""What people use of gunicorn's own arbiter: its metrics for statsd, and its control socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sysconfig
from pathlib import Path

GUNICORNC = Path(sysconfig.get_path("scripts")) / "gunicornc"


def test_statsd_receives_the_number_of_workers(serve):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        server = serve("--", "--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}")
        server.wait_ready()
        server.signal(signal.SIGTTIN)
        while not statsd.recv(65536).startswith(b"gunicorn.workers:3|g"):
            pass  # the time-out ends it


def test_gunicorns_control_socket_adds_and_removes_workers(serve, tmp_path):
    path = tmp_path / "gunicorn.ctl"
    server = serve("--", "--control-socket", str(path))
    server.wait_ready()
    server._poll("the control socket", path.exists, 20)

    def control(*words: str) -> dict:
        command = [GUNICORNC, "-s", path, "-j", "-c", " ".join(words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout)

    assert control("worker", "add", "1")["total"] == 3
    server.wait("three workers", lambda status: status["ready"] == status["target"] == 3)
    server._poll("the control socket", path.exists, 20)
    assert control("worker", "remove", "2")["total"] == 1
    server.wait("one worker", lambda status: status["ready"] == status["target"] == 1)
    assert server.status()["arbiter"]["errors"] == 0
    assert "Traceback" not in server.log
    assert server.stop() == 0
