"""Clients that do not close their connection, or do not read, hold no worker."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

CLIENTS = 8  # gunicorn would wait two seconds for each
REQUESTS = {
    "a probe": b"GET /health/live/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a page": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "a form": b"POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 3\r\n\r\na=b",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_clients_that_do_not_close_hold_nobody(worker_class, serve, request_):
    server = serve("-k", worker_class, workers=1)
    server.wait_ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(CLIENTS)]
        for client in clients:
            client.connect(str(server.socket_path))
            client.sendall(request_)
            client.settimeout(20)
        assert server.get("/", timeout=CLIENTS).status == 200, "it comes after all of them"
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}


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
