"""A real server notifies real receivers: a program, a web server, a mailbox."""

from __future__ import annotations

import json
import os
import signal
import threading
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


@pytest.fixture
def receiver():
    """A web server, and the bodies that were posted to it."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(bodies) == 1 else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path", bodies
    server.shutdown()
    thread.join()
    server.server_close()


def test_everybody_is_told_when_a_finding_appears_and_when_it_clears(serve, faults, receiver, tmp_path):
    url, bodies = receiver
    told, mails = tmp_path / "told", tmp_path / "mails"
    mails.mkdir()
    program = tmp_path / "page"
    program.write_text(f"#!/bin/sh\ncat >> {told}\necho >> {told}\n")
    program.chmod(0o755)
    receivers = f"webhook:{url},email:oncall@example.org,command:{program} --now"
    server = serve(
        "--notify-interval", "1", environ={"WORKERGUARD_NOTIFY": receivers, "GUINEA_MAILS": str(mails)}
    )
    server.wait_ready()
    faults.set("ready", "memory")
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server._poll("the program was told", lambda: told.exists() and told.read_text().endswith("}\n"), 60)
    faults.clear()
    server.wait_ready()
    server._poll("and told that it has cleared", lambda: len(told.read_text().splitlines()) >= 2, 60)
    appeared, *_, cleared = map(json.loads, told.read_text().splitlines())
    assert [one["code"] for one in appeared["appeared"]] == ["load-failing"]
    assert appeared["server"]["target"] == 2
    assert [one["code"] for one in cleared["cleared"]] == ["load-failing"]
    assert cleared["standing"] == []
    assert bodies[0] == bodies[1], "it is tried again after an error of the receiver's"
    assert "slot 1 cannot load" in bodies[0]["text"]
    letters = [message_from_bytes(path.read_bytes()) for path in sorted(mails.iterdir())]
    assert letters[0]["To"] == "oncall@example.org"
    assert "slot 1 cannot load" in letters[0]["Subject"].replace("\n", "")
    assert server.status()["arbiter"]["errors"] == 0
    assert "notify" not in server.log
    assert "secret-path" not in server.log


def test_a_program_gets_nothing_of_the_servers(serve, faults, tmp_path):
    seen = tmp_path / "seen"
    program = tmp_path / "page"
    program.write_text(f"#!/bin/sh\n(ls /proc/$$/fd; env) > {seen}.new\nmv {seen}.new {seen}\n")
    program.chmod(0o755)
    environ = {"WORKERGUARD_NOTIFY": f"command:{program}", "WORKERGUARD_HEALTH_TOKEN": "letmein"}
    server = serve("--bind", "127.0.0.1:0", environ=environ)
    server.wait_ready()
    faults.set("ready", "memory")
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server._poll("the program was told", seen.exists, 60)
    lines = seen.read_text().split("\n")
    descriptors = [line for line in lines if line.isdigit()]
    assert set(descriptors) <= {"0", "1", "2", "10"}, "10 is the shell's own"  # dash reads its script there
    assert "letmein" not in seen.read_text()


def test_giving_up_is_told_before_the_end(serve, faults, tmp_path):
    told = tmp_path / "told"
    program = tmp_path / "page"
    program.write_text(f"#!/bin/sh\nsleep 3\ncat >> {told}.new\nmv {told}.new {told}\n")
    program.chmod(0o755)
    faults.set("ready", "memory")
    server = serve("--load-retries", "1", environ={"WORKERGUARD_NOTIFY": f"command:{program}"})
    assert server.wait_exit() == 22
    assert told.exists(), "a receiver that is slow would be killed with the server in a container"
    (appeared,) = json.loads(told.read_text())["appeared"]
    assert (appeared["code"], appeared["severity"]) == ("gave-up", "critical")
    assert "need-app=worker" in appeared["text"]
