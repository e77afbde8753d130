"""Clients that do not close their connection, or do not read, hold no worker."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from tests.process.harness import Server

CLIENTS = 12  # gunicorn would wait two seconds for each
REQUESTS = {
    "a probe": b"GET /health/live/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a page": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a form": b"POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b",
    "an unread form": b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b",
    "a form in chunks": (
        b"POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\na=b\r\n0\r\n\r\n"
    ),
}
MALFORMED = {
    "a version that is none": b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
}


def answers_to_clients_that_stay(server: Server, request: bytes, length: int) -> set[bytes]:
    """Have clients send a request and leave their connections open; return how their answers begin."""
    server.wait_ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(CLIENTS)]
        for client in clients:
            client.connect(str(server.socket_path))
            client.sendall(request)
            client.settimeout(20)
        assert server.get("/", timeout=CLIENTS + 4).status == 200, "it comes after all of them"
        return {client.recv(length) for client in clients}


def test_clients_that_do_not_close_hold_nobody(worker_class, serve, subtests):
    server = serve("-k", worker_class, workers=1)
    for name, request in REQUESTS.items():
        with subtests.test(name):
            assert answers_to_clients_that_stay(server, request, 12) == {b"HTTP/1.1 200"}


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_clients_that_send_nonsense_and_do_not_close_hold_nobody(worker_class, serve, subtests):
    server = serve("-k", worker_class, workers=1)
    for name, request in MALFORMED.items():
        with subtests.test(name):
            assert answers_to_clients_that_stay(server, request, 5) == {b"HTTP/"}


def test_a_stand_in_is_not_held_by_clients_that_do_not_close(serve, faults):
    faults.set("ready", "memory")
    server = serve("--stand-in-after", "0", "--need-app", "worker", "--load-retries", "1000", workers=1)
    server.wait("the stand-in", lambda status: status["stand_in"])
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(server.socket_path))
            client.sendall(REQUESTS["an unread form"])
        assert server.get("/", timeout=CLIENTS + 4).status == 503


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_clients_that_send_nothing_hold_nobody(worker_class, serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = free.getsockname()
    server = serve("-k", worker_class, "--bind", f"127.0.0.1:{address[1]}", workers=1)
    server.wait_ready()
    with ExitStack() as stack:
        for _ in range(CLIENTS):
            client = stack.enter_context(socket.create_connection(address))
        assert server.get("/health/ready/", timeout=CLIENTS + 4).status == 200
        client.sendall(REQUESTS["a page"])
        client.settimeout(20)
        assert client.recv(12) == b"HTTP/1.1 200", "it may send later"


def test_what_was_not_read_of_a_request_does_not_cut_its_answer_off(serve):
    """There gunicorn's patience is right: the kernel would reset the connection under the answer."""
    server = serve(workers=1)
    server.wait_ready()
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket_path))
            client.sendall(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
            )
            client.settimeout(20)
            answer = b""
            while data := client.recv(65536):
                answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"pid " in answer
