"""Who goes away in the middle is no error of the worker's: neither suspect nor outlier by it."""

from __future__ import annotations

import socket

import pytest

from tests.process.clients import ended

ASYNC = ["asgi", "uvicorn_worker.UvicornWorker"]
REQUESTS = {
    "a slow view": b"GET /slow?seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a form": b"POST /read HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize("worker_class", ASYNC)
def test_a_client_that_goes_away_is_no_error(serve, worker_class, request_):
    server = serve("-k", worker_class, workers=1)
    server.wait_ready()
    for number in range(1, 5):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.socket_path))
            client.sendall(request_)
            server.wait("it is in hand", lambda status: status["slots"][0]["in_flight"] == 1)
        server.wait("it has ended", lambda status, n=number: ended(status["slots"][0]) == n)
    (slot,) = server.status()["slots"]
    assert (slot["errors_5xx"], slot["suspect"], slot["in_flight"]) == (0, False, 0)
