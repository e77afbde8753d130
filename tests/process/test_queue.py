"""How long requests wait before a worker takes them up, and those that have waited too long."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time

import pytest

from tests.process.clients import Clients, ended, in_hand
from tests.process.harness import threads
from tests.process.pools import free_port

# a request that keeps a worker, or its event loop, from taking up another one, for 6 seconds
BUSY = {
    "sync": "/slow?seconds=6",
    "gthread": "/slow?seconds=6",
    "gevent": "/hang?how=computing&seconds=6",
    "asgi": "/blocked-loop?seconds=6",
    "uvicorn_worker.UvicornWorker": "/blocked-loop?seconds=6",
}


ASYNCHRONOUS = ("asgi", "uvicorn_worker.UvicornWorker")


def one_thread(worker_class: str) -> tuple[str, ...]:
    return ("--threads", "1") if worker_class == "gthread" else ()


def ask(port: int, path: str = "/", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(
        "GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    response.read()
    connection.close()
    return response


def ask_and_reset(port: int) -> None:
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET /counted HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def wait_busy(server) -> None:
    """Wait until the view of BUSY has been called; another request may have been answered, and not have ended yet."""
    server.wait(
        "it is busy", lambda _: [one for one in in_hand(server) if one["path"] != "/" and one["view"]]
    )


@pytest.fixture
def serve_tcp(serve):
    """Serve on a TCP port, too, and return the server and the port."""

    def start(*arguments: str, worker_class: str = "sync", more: tuple[str, ...] = ()):
        port = free_port()
        bind = ("--bind", f"127.0.0.1:{port}", "-k", worker_class)
        server = serve(*bind, *arguments, "--", *one_thread(worker_class), *more, workers=1)
        server.wait_ready()
        return server, port

    return start


def waits(status: dict) -> tuple[int, float]:
    """Return how many requests of slot 1 have waited for a known time, and for how many seconds together."""
    queue = status["slots"][0]["queue"] or {"buckets": [], "seconds": 0.0}
    return sum(queue["buckets"]), queue["seconds"]


@pytest.mark.parametrize("worker_class", BUSY)
def test_a_request_that_has_waited_too_long_is_answered_503_and_one_that_was_reset_is_not_served(
    serve_tcp, worker_class
):
    server, port = serve_tcp("--queue-timeout", "2", worker_class=worker_class)
    assert ask(port).status == 200
    count, seconds = waits(server.status())
    assert count == 1
    assert seconds < 2
    busy = threading.Thread(target=ask, args=(port, BUSY[worker_class]))
    busy.start()
    wait_busy(server)
    if worker_class in ASYNCHRONOUS:
        server.wait("its loop is late", lambda status: status["slots"][0]["loop_lag"] > 0.3)
    ask_and_reset(port)
    begun = time.monotonic()
    late = ask(port)
    assert time.monotonic() - begun > 2
    assert (late.status, int(late.headers["Retry-After"]) > 0) == (503, True)
    busy.join()
    assert ask(port).status == 200
    status = server.wait("all are counted", lambda status: ended(status["slots"][0]) == 3)
    slot = status["slots"][0]
    assert (slot["shed"], slot["gone"], slot["errors_5xx"], slot["in_flight"]) == (1, 1, 0, 0)
    count, seconds = waits(server.status())
    assert count == 4, "the one that was reset did not wait to the end"
    assert seconds > 2
    server.wait("an empty register", lambda _: in_hand(server) == [])
    lag = slot["loop_lag"]
    assert (lag is None) if worker_class not in ASYNCHRONOUS else lag > 0.4


def test_a_health_url_is_answered_however_long_it_has_waited(serve_tcp):
    server, port = serve_tcp("--queue-timeout", "2")
    busy = threading.Thread(target=ask, args=(port, "/slow?seconds=6"))
    busy.start()
    wait_busy(server)
    assert ask(port, "/health/live/").status == 200
    busy.join()


def since(seconds: float) -> str:
    return f"t={time.time() - seconds:.3f}"


def test_a_proxy_on_a_unix_socket_can_say_since_when_a_request_has_waited(serve, worker_class):
    # long times, because a busy machine adds to them
    server = serve("--queue-timeout", "60", "--", "-k", worker_class, *threads(worker_class), workers=1)
    server.wait_ready()
    assert server.get("/").status == 200
    assert waits(server.status()) == (0, 0.0), "it is unknown, not 0"
    assert server.get("/", headers={"X-Request-Start": since(10)}).status == 200
    assert server.get("/", headers={"X-Request-Start": since(100)}).status == 503
    assert server.get("/", headers={"X-Request-Start": "yesterday"}).status == 200
    count, seconds = waits(server.status())
    assert count == 2
    assert 109.99 <= seconds < 170  # the header has milliseconds


@pytest.mark.parametrize(("allowed", "status"), [("127.0.0.0/8", 503), ("*", 503), ("10.0.0.1", 200)])
def test_only_a_trusted_proxy_can_say_since_when(serve_tcp, allowed, status):
    _, port = serve_tcp("--queue-timeout", "30", more=("--forwarded-allow-ips", allowed))
    assert ask(port, X_Request_Start=since(60)).status == status


def test_a_client_that_has_closed_its_side_still_gets_its_response(serve_tcp):
    server, port = serve_tcp()
    asking = Clients(server)
    asking.ask("/slow?seconds=6")
    wait_busy(server)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").readline().startswith(b"HTTP/1.1 200 ")
    assert asking.join() == [200]
