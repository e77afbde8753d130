"""Each event of a worker's life is logged once, by the arbiter; as JSON if asked."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter

import pytest

from tests.process.others import Plain, environ, uwsgi

UVICORN = "uvicorn_worker.UvicornWorker"


def test_json_every_line_of_it(serve, faults, worker_class):
    server = serve("-k", worker_class, "--log-format", "json", "--", "--access-logfile", "-")
    server.wait_ready()
    assert server.get("/?a=1").status == 200
    if worker_class != UVICORN:  # its access log is another one
        server.wait_log("gunicorn.access")  # it is written after the answer: do not kill the worker before
    faults.set("ready", "memory", 1)
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    server.wait_event("load-failed")
    server.wait_ready()
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    others = [line for line in server.log.splitlines() if not line.startswith("{")]
    assert not [line for line in others if "[INFO]" in line or "[ERROR]" in line], others
    assert {"at", "level", "logger", "pid", "message"} <= lines[0].keys()
    by_action = Counter(line.get("action") for line in lines)
    assert (by_action["load-failed"], by_action["ready"]) == (1, 3)
    failed = next(line for line in lines if line.get("action") == "load-failed")
    assert (failed["slot"], failed["level"], failed["pid"]) == (1, "error", server.arbiter)
    assert failed["worker"] != server.arbiter
    assert "Traceback" in failed["message"]
    access = [line for line in lines if line["logger"].startswith(("gunicorn.access", "uvicorn.access"))]
    if worker_class != UVICORN:
        assert (access[0]["status"], access[0]["path"], access[0]["query"]) in (
            ("200", "/", "a=1"),
            (200, "/", "a=1"),
        )


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_event_is_said_once(serve, log_format):
    server = serve("--log-format", log_format)
    server.wait_ready()
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    server.stop()
    ready = re.findall(r"slot=(\d) gen=(\d) pid=\d+ ready", server.log)
    assert Counter(ready) == {(slot, generation): 1 for slot in "12" for generation in "12"}
    assert len(re.findall(r"Reload: generation 2 begins", server.log)) == 1
    assert len(re.findall(r"asked to leave: reload", server.log)) == 2


def test_a_project_that_disables_existing_loggers_loses_no_line(serve, worker_class):
    server = serve("-k", worker_class, "--", "--access-logfile", "-", environ={"GUINEA_LOGGING": "1"})
    server.wait_ready()
    server.get("/who?seen=1")
    server.wait_log("/who?seen=1")
    assert "set disable_existing_loggers to False" in server.log


def test_json_has_the_headers_that_the_access_format_names(serve):
    form = "%({x-request-id}i)s %({content-type}o)s"
    server = serve("--log-format", "json", "--", "--access-logfile", "-", "--access-logformat", form)
    server.wait_ready()
    server.get("/", headers={"X-Forwarded-For": "198.51.100.1, 203.0.113.7", "X-Request-Id": "abc123"})
    server.wait_log("abc123")
    line = json.loads(next(line for line in server.log.splitlines() if "abc123" in line))
    assert line["x-request-id"] == "abc123"
    assert line["content-type"].startswith("text/html")
    assert line["remote"] == "203.0.113.7", "the address that the proxy has seen"


REQUEST_OF_UWSGI = re.compile(
    r"\[pid: (?P<pid>\d+)\|app: 0\|req: \d+/\d+\] (?P<addr>\S*) \((?P<user>\S*)\) \{\d+ vars in \d+ bytes\} "
    r"\[(?P<time>\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\] (?P<method>\w+) (?P<uri>\S+) => generated (?P<size>\d+) "
    r"bytes in (?P<msecs>\d+) msecs \((?P<protocol>\S+) (?P<status>\d+)\) \d+ headers in \d+ bytes "
    r"\(1 switches on core 0\)"
)


@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", "asgi"])
def test_the_access_log_in_the_form_of_uwsgi(serve, worker_class):
    server = serve("-k", worker_class, "--log-format", "uwsgi", "--", "--access-logfile", "-", workers=1)
    server.wait_ready()
    assert server.get("/missing?q=%C3%A9").status == 404
    server.wait("the line", lambda _: REQUEST_OF_UWSGI.search(server.log))
    line = REQUEST_OF_UWSGI.search(server.log).groupdict()
    assert int(line["pid"]) == server.pids()[0]
    told = {name: line[name] for name in ("user", "method", "uri", "protocol", "status")}
    assert told == AS_UWSGI


AS_UWSGI = {"user": "", "method": "GET", "uri": "/missing?q=%C3%A9", "protocol": "HTTP/1.1", "status": "404"}


@pytest.mark.needs("uwsgi")
def test_uwsgi_itself_writes_it_in_that_form(tmp_path):
    plain = Plain(tmp_path)
    with plain.running(uwsgi(plain.socket), environ(tmp_path)):
        assert plain.get("/missing?q=%C3%A9")[0] == 404
        deadline = time.monotonic() + 30  # it writes the line after the response
        while not (found := REQUEST_OF_UWSGI.search(plain.log.read_text())):
            assert time.monotonic() < deadline, plain.log.read_text()
            time.sleep(0.05)
    line = found.groupdict()
    assert {name: line[name] for name in AS_UWSGI} == AS_UWSGI
