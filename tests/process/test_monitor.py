"""The monitor answers probes, scrapes and people without a worker, on real servers."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import jsonschema
import pytest

from django_workerguard.report.findings import assess
from tests.components import leave_out
from tests.process.clients import Clients, in_hand
from tests.process.commands import workerguard
from tests.process.harness import UNSHARE
from tests.process.metrics import names
from tests.process.monitors import ask, is_monitor, monitors, places

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOOPBACK = ("--monitor-bind", "127.0.0.1:0")
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "reference" / "status.schema.json"


def is_refused(place: str) -> bool:
    try:
        ask(place, "/live/")
    except ConnectionRefusedError:
        return True
    except OSError:  # the process has not ended yet
        return False
    return False


def test_it_answers_while_every_worker_is_busy(serve):
    server = serve(*LOOPBACK, "--timeout", "120")
    server.wait_ready()
    (place,) = places(server)
    clients = Clients(server)
    for _ in range(6):
        clients.ask("/slow?seconds=100&token=the-secret")
    server.wait(
        "two in hand", lambda _: [one["view"] for one in in_hand(server)] == ["guinea_app.views.slow"] * 2
    )
    busy = [request["task"] for request in in_hand(server)]
    for kind in ("live", "ready/", "startup"):
        assert ask(place, f"/{kind}").status == 200
    assert ask(place, "/ready/").body == "ok: 2 of 2 workers ready, 1 needed\n"
    assert json.loads(ask(place, "/ready?format=json").body)["status"] == "ok"
    metrics = ask(place, "/metrics")
    assert 'workerguard_requests_in_flight{slot="2"} 1.0' in metrics.body
    printed = workerguard("metrics", "--name", "guinea", run_dir=server.run_dir).stdout
    assert names(metrics.body) == names(printed)
    openmetrics = ask(place, "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert openmetrics.body.endswith("# EOF\n")
    status = json.loads(ask(place, "/status.json").body)
    jsonschema.validate(status, json.loads(SCHEMA.read_text()))
    command = json.loads(workerguard("status", "--json", "--name", "guinea", run_dir=server.run_dir).stdout)
    assert status.keys() == command.keys()
    page = ask(place, "/")
    assert "<td>/slow</td><td>guinea_app.views.slow</td>" in page.body
    assert "the-secret" not in page.body
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert ask(place, "/nothing").status == 404
    assert [request["task"] for request in in_hand(server)] == busy, "no worker has become free"
    (monitor,) = monitors(server)
    listener = os.readlink(f"/proc/{monitor}/fd/3")
    for worker in server.pids():
        assert listener not in {os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()}


def test_it_answers_while_nobody_is_loaded(serve, faults):
    faults.set("ready", "memory")
    server = serve(*LOOPBACK, "--load-retries", "1000")
    server.wait(
        "failed loads", lambda status: [slot["failures"] > 0 for slot in status["slots"]] == [True] * 2
    )
    (place,) = places(server)
    assert ask(place, "/live/").status == 200
    ready = ask(place, "/ready/")
    assert (ready.status, ready.headers["retry-after"]) == (503, "2")
    assert ready.body == "unavailable: 0 of 2 workers ready, 1 needed\n"
    assert ask(place, "/startup/").status == 503
    assert "workerguard_ready_workers 0.0" in ask(place, "/metrics").body
    assert "cannot load the application" in ask(place, "/").body
    faults.clear()
    server.wait_ready()
    assert ask(place, "/ready/").status == 200


def test_live_fails_when_the_arbiter_is_stopped_and_nothing_is_left_when_it_is_killed(serve):
    server = serve(*LOOPBACK)
    server.wait_ready()
    (place,) = places(server)
    (monitor,) = monitors(server)
    server.signal(signal.SIGSTOP)
    server._poll("it is not live", lambda: ask(place, "/live/").status == 503, 60)
    assert re.fullmatch(r"unavailable: the arbiter ticked \d+ s ago\n", ask(place, "/live/").body)
    assert server.get("/health/live/").status == 503, "the health URL says the same"
    assert "has shown no sign of life" in ask(place, "/").body
    server.signal(signal.SIGCONT)
    server._poll("it is live again", lambda: ask(place, "/live/").status == 200, 60)
    assert monitors(server) == [monitor]
    server.signal(signal.SIGKILL)
    server.wait_exit()
    server._poll("its end", lambda: not is_monitor(monitor), 20)
    server._poll("nothing listens", lambda: is_refused(place), 20)


def test_it_comes_back_when_it_is_killed_and_no_client_is_refused(serve):
    server = serve(*LOOPBACK)
    server.wait_ready()
    (place,) = places(server)
    workers = server.pids()
    for count in (1, 2):
        (monitor,) = monitors(server)
        os.kill(monitor, signal.SIGKILL)
        assert ask(place, "/live/").status == 200, "the client waited for the next one"
        assert monitors(server) not in ([], [monitor])
        assert (
            f"the monitor (pid {monitor}) has ended: killed by SIGKILL; it is started again in" in server.log
        )
        event = server.events("monitor-exited")[-1]
        assert (event["pid"], event["end"]) == (monitor, "killed by SIGKILL")
        assert 0 < event["next_try"] <= 1
        status = server.status()
        assert status["monitor_failures"] == count
        assert [one.code for one in assess(status)] == ["monitor-failing"]
    assert server.pids() == workers
    assert places(server) == [place]
    assert server.status()["arbiter"]["errors"] == 0
    server.wait("it is well again", lambda status: not assess(status))


def test_the_token_gives_the_details(serve):
    server = serve(*LOOPBACK, environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN})
    server.wait_ready()
    (place,) = places(server)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        assert ask(place, "/ready/", headers).body == "ok\n"
        for path in ("/", "/metrics", "/status.json"):
            refused = ask(place, path, headers)
            assert refused.status == 403
            assert "guinea" not in refused.body
    assert ask(place, "/ready/", BEARER).body.startswith("ok: 2 of 2 workers")
    for path in ("/", "/metrics", "/status.json"):
        assert ask(place, path, BEARER).status == 200
    (monitor,) = monitors(server)
    for name in ("cmdline", "environ"):
        assert TOKEN.encode() not in Path(f"/proc/{monitor}/{name}").read_bytes()


def test_a_page_of_another_site_reads_nothing_through_a_name_for_this_host(serve):
    server = serve(*LOOPBACK)
    server.wait_ready()
    (place,) = places(server)
    port = place.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[evil]"):
        assert ask(place, "/status.json", {"Host": host}).status == 403
        assert ask(place, "/live/", {"Host": host}).body == "ok\n", "a probe is answered, without its reason"
    for host in ("localhost", f"localhost:{port}", f"10.0.0.7:{port}", f"[::1]:{port}"):
        assert ask(place, "/status.json", {"Host": host}).status == 200


@pytest.mark.parametrize(
    ("bind", "code", "text"),
    [
        ("0.0.0.0:0", 2, "monitor-bind: other hosts can reach 0.0.0.0:0, and no health-token is set"),
        ("[::]:0", 2, "write '[::]:0 without-token'."),
        ("9000", 2, "monitor-bind: '9000' is not of the form ADDRESS:PORT"),
        ("unix:relative", 2, "'relative' is not the absolute path of a unix socket"),
        (
            "192.0.2.1:9000 without-token",
            71,
            "monitor-bind: cannot listen at 192.0.2.1:9000: Cannot assign requested",
        ),
    ],
)
def test_an_address_that_cannot_be_used_refuses_the_start(serve, bind, code, text):
    server = serve("--monitor-bind", bind)
    assert server.wait_exit() == code
    assert text in server.log
    assert "set in --monitor-bind on the command line" in server.log
    assert "Traceback" not in server.log


def test_a_public_address_needs_a_token_or_the_word(serve):
    for more in (
        {"arguments": ("--monitor-bind", "0.0.0.0:0 without-token")},
        {"arguments": ("--monitor-bind", "0.0.0.0:0"), "environ": {"WORKERGUARD_HEALTH_TOKEN": TOKEN}},
    ):
        server = serve(*more.pop("arguments"), **more, workers=1)
        server.wait_ready()
        place = places(server)[0].replace("0.0.0.0", "127.0.0.1")
        assert ask(place, "/metrics", {**BEARER, "Host": "metrics.example"}).status == 200


def test_an_address_in_use_refuses_the_start(serve, tmp_path):
    with socket.socket() as other, socket.socket(socket.AF_UNIX) as other_unix:
        other.bind(("127.0.0.1", 0))
        other.listen()
        other_unix.bind(str(tmp_path / "used"))
        other_unix.listen()
        (tmp_path / "file").write_text("precious")
        for bind, problem in (
            (f"127.0.0.1:{other.getsockname()[1]}", "Address already in use"),
            (f"unix:{tmp_path}/used", "Address already in use"),
            (f"unix:{tmp_path}/file", "there is a file that is no socket"),
        ):
            server = serve("--monitor-bind", bind)
            assert server.wait_exit() == 71
            assert f"monitor-bind: cannot listen at {bind}: {problem}" in server.log
            assert "Listening at" not in server.log
    assert (tmp_path / "file").read_text() == "precious"


def test_a_unix_socket_is_for_its_group_and_goes_with_the_server(serve, tmp_path):
    path = tmp_path / "monitor.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = serve("--monitor-bind", f"unix:{path}")
    server.wait_ready()
    assert path.stat().st_mode & 0o777 == 0o660
    assert ask(f"unix:{path}", "/metrics", {"Host": "any.example"}).status == 200
    (monitor,) = monitors(server)
    assert server.stop() == 0
    assert not path.exists()
    assert not is_monitor(monitor)


def test_the_probes_tell_that_the_server_stops(serve):
    server = serve(*LOOPBACK, "--drain-delay", "60s")
    server.wait_ready()
    (place,) = places(server)
    server.signal(signal.SIGTERM)
    server._poll("draining", lambda: ask(place, "/ready/").status == 503, 20)
    assert ask(place, "/ready/").body == "unavailable: the server is stopping\n"
    assert ask(place, "/live/").status == 200
    server.signal(signal.SIGINT)
    assert server.wait_exit() == 0


@pytest.fixture
def slow_clients():
    """Connect, begin a request, and go on with one byte at a time, for ever."""
    with ExitStack() as opened:
        over = threading.Event()

        def trickle(connections: list[socket.socket]) -> None:
            while not over.wait(0.5):
                for connection in connections:
                    try:
                        connection.send(b"x")
                    except OSError:
                        continue

        def start(place: str, count: int) -> list[socket.socket]:
            host, _, port = place.removeprefix("http://").rpartition(":")
            connections = [
                opened.enter_context(socket.create_connection((host, int(port)), timeout=20))
                for _ in range(count)
            ]
            for connection in connections:
                connection.sendall(b"GET /metrics?")
            thread = threading.Thread(target=trickle, args=(connections,))
            opened.callback(thread.join)
            opened.callback(over.set)
            thread.start()
            return connections

        yield start


def test_slow_clients_keep_no_other_from_being_answered_and_are_cut_off(serve, slow_clients):
    server = serve(*LOOPBACK)
    server.wait_ready()
    (place,) = places(server)
    connections = slow_clients(place, 200)
    for _ in range(20):
        assert ask(place, "/live/").status == 200
        assert ask(place, "/metrics").status == 200
    deadline = time.monotonic() + 60
    for connection in connections:
        assert select.select([connection], [], [], max(0, deadline - time.monotonic()))[0], "it is cut off"
    assert ask(place, "/live/").status == 200


def test_what_clients_send_harms_nothing(serve):
    server = serve(*LOOPBACK)
    server.wait_ready()
    (place,) = places(server)
    (monitor,) = monitors(server)
    host, _, port = place.removeprefix("http://").rpartition(":")
    for sent, status in (
        (b"GET /live/ HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b""),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", b""),
        (b"GET /live/ HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"HTTP/1.1 431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", b"HTTP/1.1 501"),
        (b"GET //[/metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 4"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET /<script>\xff HTTP/1.1\r\n\r\n", b"HTTP/1.1 404"),
        (b"HEAD / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200"),
    ):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            received = b""
            try:
                connection.sendall(sent)
                while more := connection.recv(65536):
                    received += more
            except OSError:  # it is cut off
                assert not status
            assert status in received.partition(b"\r\n")[0], sent[:40]
            assert b"<script>" not in received
    assert monitors(server) == [monitor]
    assert ask(place, "/live/").status == 200
    assert "Traceback" not in server.log


def test_a_reload_takes_another_address_and_another_token(serve, tmp_path):
    config = tmp_path / "conf.py"

    def configure(bind: str, token: str = "") -> None:
        new = tmp_path / "conf.py.new"  # a reload that was refused may be tried again at any moment
        new.write_text(f"WORKERGUARD = {{'MONITOR_BIND': {bind!r}, 'HEALTH_TOKEN': {token!r}}}")
        new.rename(config)

    first, second = tmp_path / "first.sock", tmp_path / "second.sock"
    configure("")
    server = serve("--config", str(config))
    server.wait_ready()
    assert monitors(server) == []

    configure(f"unix:{first}")
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    assert ask(f"unix:{first}", "/metrics").status == 200

    (tmp_path / "file").write_text("precious")
    configure(f"unix:{tmp_path}/file")
    server.signal(signal.SIGHUP)
    refused = server.wait_event("reload-refused")
    assert f"monitor-bind: cannot listen at unix:{tmp_path}/file" in refused["reason"]
    configure("0.0.0.0:0")
    server.signal(signal.SIGHUP)
    server.wait_event("reload-refused", lambda event: "no health-token is set" in event["reason"])
    assert ask(f"unix:{first}", "/metrics").status == 200

    configure(f"unix:{second}", TOKEN)
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded", count=2)
    assert not first.exists()
    server._poll("the monitor at the second address", lambda: len(monitors(server)) == 1, 20)
    assert ask(f"unix:{second}", "/metrics").status == 403
    assert ask(f"unix:{second}", "/metrics", BEARER).status == 200

    configure(f"unix:{second}")
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded", count=3)
    server._poll("the monitor with the other token", lambda: len(monitors(server)) == 1, 20)
    assert ask(f"unix:{second}", "/metrics").status == 200, "the token alone has changed"

    configure("")
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded", count=4)
    assert not second.exists()
    server._poll("no monitor", lambda: monitors(server) == [], 20)
    assert "the monitor (pid" not in server.log, "none has ended by itself"


def test_a_second_arbiter_takes_over_and_no_client_is_refused(serve, tmp_path):
    path = tmp_path / "monitor.sock"
    place = f"unix:{path}"
    server = serve("--monitor-bind", place)
    server.wait_ready()
    old = server.arbiter
    server.signal(signal.SIGUSR2)
    status = server.wait(
        "the second", lambda status: status["arbiter"]["pid"] != old and status["ready"] == 2
    )
    new = status["arbiter"]["pid"]

    def answering() -> int:
        return json.loads(ask(place, "/status.json").body)["arbiter"]["pid"]

    assert {answering() for _ in range(10)} == {old}
    assert monitors(server, new) == []
    os.kill(old, signal.SIGTERM)
    while server.process.poll() is None:
        assert ask(place, "/ready/").status in (200, 503)
    server._poll("the second answers", lambda: answering() == new, 20)
    assert len(monitors(server, new)) == 1
    assert path.exists()
    os.kill(new, signal.SIGTERM)
    server._poll("the end of the second", lambda: not Path(f"/proc/{new}").exists(), 20)
    assert not path.exists()


def test_as_process_1(serve, tmp_path):
    if subprocess.run((*UNSHARE, "true"), capture_output=True).returncode:
        leave_out("a PID namespace of its own needs rights that this user does not have")
    place = f"unix:{tmp_path}/monitor.sock"
    server = serve("--monitor-bind", place, prefix=UNSHARE, workers=1)
    server._poll("ready", lambda: "All 1 workers are ready" in server.log, 60)
    server._poll("it is published", lambda: ask(place, "/ready/").status == 200, 20)
    inside = int(Path(f"/proc/{server.arbiter}/task/{server.arbiter}/children").read_text().split()[0])
    (monitor,) = monitors(server, inside)
    os.kill(monitor, signal.SIGTERM)
    assert ask(place, "/live/").status == 200
    os.kill(inside, signal.SIGTERM)
    assert server.wait_exit() == 0
    assert not (tmp_path / "monitor.sock").exists()
