"""GuardMiddleware's detection under servers that are not ours, and ours behind nginx."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.components import COMPONENTS
from tests.process.harness import threads
from tests.process.others import Plain, environ, nginx_conf, uwsgi
from tests.process.pools import free_port


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    return Plain(tmp_path)


def gunicorn(socket: Path) -> list[str]:
    bind = ["--bind", f"unix:{socket}", "--workers", "1"]
    return [sys.executable, "-m", "gunicorn", *bind, "guinea_wsgi:application"]


def gunicorn_asgi(socket: Path) -> list[str]:
    return [*gunicorn(socket)[:-1], "--worker-class", "asgi", "guinea_plain_asgi:application"]


SERVERS = [
    pytest.param(gunicorn, id="gunicorn"),
    pytest.param(gunicorn_asgi, id="gunicorn-asgi"),
    pytest.param(uwsgi, id="uwsgi", marks=pytest.mark.needs("uwsgi")),
]


@pytest.mark.parametrize("server", SERVERS)
def test_the_middleware_keeps_an_unloaded_worker_from_answering(plain, faults, server):
    faults.set("views", "exception")
    with plain.running(server(plain.socket), environ(plain.directory)):
        status, headers = plain.get("/")
        assert status == 503
        assert int(headers["retry-after"]) >= 1
        assert plain.get("/health/live/")[0] == 200
        assert plain.get("/health/ready/")[0] == 503
        faults.clear()
        deadline = time.monotonic() + 60
        while plain.get("/")[0] != 200:
            assert time.monotonic() < deadline, plain.log.read_text()
            time.sleep(0.1)
        assert plain.get("/health/ready/")[0] == 200
    assert plain.log.read_text().count("This worker is not loaded") == 1


@pytest.mark.parametrize("server", SERVERS)
def test_a_urlconf_that_is_broken_for_ever_keeps_answering_503(plain, faults, server):
    faults.set("half", "half", 1)
    with plain.running(server(plain.socket), environ(plain.directory)):
        assert [plain.get("/")[0] for _ in range(5)] == [503] * 5


UWSGI_PARAMS = """
    include /etc/nginx/uwsgi_params;
    uwsgi_param REMOTE_ADDR 192.0.2.7;
    uwsgi_param REMOTE_PORT 4711;
    uwsgi_param REMOTE_USER anna;
    uwsgi_param SERVER_NAME shop.example.org;
    uwsgi_param SERVER_PORT 8443;
    uwsgi_param UWSGI_SCHEME https;
    uwsgi_param SHOP_REGION nørth;
"""
# a client's view of the same request
ASKED = (
    "/meta/plain",
    "/meta/na%C3%AFve/%2520/a%2Fb;c=1?q=%20%C3%A9&q=2",
    "/meta/%FFx",
)
# what a server says of itself, or leaves to the other side
OF_THE_SERVER = ("SERVER_SOFTWARE", "HTTP_CONNECTION", "UWSGI_ROUTER", "PWD", "REQUEST_START")


@pytest.mark.needs("nginx")
@pytest.mark.parametrize("protocol", ["http", "uwsgi"])
def test_behind_nginx(serve, faults, plain, protocol):
    extra = ["--", "--protocol", "uwsgi", "--uwsgi-allow-from", "*"] if protocol == "uwsgi" else []
    server = serve(*extra)
    server.wait_ready()
    to = f"unix:{server.socket_path}"
    location = (
        f"uwsgi_pass {to}; {UWSGI_PARAMS}"
        if protocol == "uwsgi"
        else f"proxy_pass http://{to}; proxy_set_header Host localhost;"
    )
    conf = nginx_conf(plain.directory, location)
    with plain.running([COMPONENTS["nginx"].path() or "nginx", "-c", str(conf)], {}):
        assert plain.get("/")[0] == 200
        assert plain.get("/health/ready/")[0] == 200
        faults.set("ready", "memory")
        os.kill(server.pids()[0], signal.SIGKILL)
        server.wait_event("load-failed")
        assert [plain.get("/")[0] for _ in range(20)] == [200] * 20
        faults.clear()
        server.wait_ready()


def uwsgi_protocol(directory: Path) -> list[str]:
    command = uwsgi(directory / "uwsgi.sock")
    command[command.index("--http-socket")] = "--socket"
    return command


@pytest.mark.needs("nginx", "uwsgi")
@pytest.mark.parametrize("worker_class", ["sync", "gthread", "gevent", "asgi"])
def test_nginx_tells_the_application_by_uwsgi_what_it_tells_it_under_uwsgi(serve, plain, worker_class):
    own = ("-k", worker_class, *threads(worker_class), "--protocol", "uwsgi")
    server = serve("--", *own, workers=1)
    server.wait_ready()
    theirs = Plain(plain.directory / "theirs")
    theirs.directory.mkdir()
    conf = nginx_conf(
        plain.directory,
        f"uwsgi_pass unix:{server.socket_path}; {UWSGI_PARAMS}",
        more=f"location /uwsgi/ {{ rewrite ^/uwsgi(/.*)$ $1 break; uwsgi_pass unix:{theirs.directory}/uwsgi.sock; {UWSGI_PARAMS} }}",
    )
    running = theirs.running(uwsgi_protocol(theirs.directory), environ(plain.directory))
    with running, plain.running([COMPONENTS["nginx"].path() or "nginx", "-c", str(conf)], {}):
        deadline = time.monotonic() + 30
        while plain.get("/uwsgi/meta/x")[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for asked in ASKED[:2] if worker_class == "asgi" else ASKED:  # a scope's path is text
            answers = [plain.ask(f"{prefix}{asked}") for prefix in ("", "/uwsgi")]
            assert [status for status, _ in answers] == [200, 200]
            ours, expected = (json.loads(body) for _, body in answers)
            told = set(expected) - set(os.environ)
            if worker_class == "asgi":  # its scope has no place for other variables
                told = {name for name in told if name.startswith(("HTTP_", "REMOTE_", "SERVER_"))} - {
                    "REMOTE_USER"
                }
                told = told - {"REMOTE_PORT", "SERVER_PROTOCOL"} | {"path", "more", "secure", "PATH_INFO"}
            told -= {*OF_THE_SERVER, *(name for name in told if name.startswith(("uwsgi.", "x-wsgiorg")))}
            expected["REQUEST_URI"] = asked
            assert {name: ours.get(name) for name in told} == {name: expected[name] for name in told}
        assert plain.ask("/stream?lines=3")[1] == b"line 0\nline 1\nline 2\n"
        assert plain.ask("/read", b"x" * 200_000) == (200, b"read 200000\n")


def uwsgi_packet(**variables: str) -> bytes:
    pairs = [part.encode() for pair in variables.items() for part in pair]
    block = b"".join(len(part).to_bytes(2, "little") + part for part in pairs)
    return b"\0" + len(block).to_bytes(2, "little") + b"\0" + block


@pytest.mark.parametrize(("allowed", "answer"), [("127.0.0.1", b"HTTP/1.0 200 "), ("10.0.0.1", b"")])
@pytest.mark.parametrize("worker_class", ["sync", "asgi"])
def test_only_a_trusted_peer_can_say_by_uwsgi_who_the_client_is(serve, worker_class, allowed, answer):
    port = free_port()
    own = ("--protocol", "uwsgi", "--uwsgi-allow-from", allowed)
    server = serve("-k", worker_class, "--bind", f"127.0.0.1:{port}", "--", *own, workers=1)
    server.wait_ready()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(
            uwsgi_packet(REQUEST_METHOD="GET", PATH_INFO="/meta/x", HTTP_HOST="localhost", REMOTE_USER="anna")
        )
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
    assert received[: len(answer)] == answer
    assert (b"anna" in received) is (answer != b"" and worker_class == "sync")
