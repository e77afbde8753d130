"""CPU that the guard adds to a request, in process: the least of 20 blocks of 10,000."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from types import SimpleNamespace

from gunicorn.config import Config
from gunicorn.http.body import LengthReader

from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.server.workers.connection_close import close_without_waiting
from django_workerguard.server.workers.request_counter import chain_hooks, request_count
from django_workerguard.server.workers.wrapper import GuardedASGI, GuardedWSGI, HealthURLs
from django_workerguard.worker.seat_handle import SeatHandle
from tests.benchmarks.measure import judge

BLOCKS, SIZE = 20, 10_000


def a_handle() -> SeatHandle:
    board = Board.create(Layout(seats=1, slots=1), None)
    return SeatHandle(
        board=board,
        seat=0,
        slot=1,
        generation=1,
        wake_fd=-1,
        dump_fd=-1,
        request=LoadRequest(app=None, interface="wsgi", warmup=(), warmup_path=(), load_probe=(), release=""),
        options=GuardOptions(),
    )


def least(block) -> float:
    """Return microseconds of CPU per request."""
    best = float("inf")
    for _ in range(BLOCKS):
        started = time.process_time()
        block()
        best = min(best, time.process_time() - started)
    return best / SIZE * 1e6


def a_request(sock: socket.socket) -> SimpleNamespace:
    body = SimpleNamespace(reader=LengthReader(None, 0))
    return SimpleNamespace(method="GET", path="/books/", body=body, unreader=SimpleNamespace(sock=sock))


def test_wsgi():
    environ = {"PATH_INFO": "/books/", "REQUEST_METHOD": "GET"}
    answer = [b"ok"]

    def app(environ, start_response):
        return answer

    def block_of(worker, app):
        before, after = worker.cfg.pre_request, worker.cfg.post_request
        request, response = a_request(client), SimpleNamespace(status_code=200)

        def block():
            for _ in range(SIZE):
                before(worker, request)
                app(environ, None)
                after(worker, request, environ, response)

        return block

    def a_worker():
        error_log = logging.getLogger("bench.error")
        error_log.setLevel(logging.INFO)
        log = SimpleNamespace(error_log=error_log, debug=error_log.debug)
        return SimpleNamespace(cfg=Config(), log=log)

    handle, worker = a_handle(), a_worker()
    count = request_count(handle.board.words, handle.base)
    with socket.socket() as client:
        plain = least(block_of(a_worker(), app))
        closer = close_without_waiting()
        assert closer is not None
        chain_hooks(worker, count, answered=closer.record)
        guarded = least(block_of(worker, GuardedWSGI(app, HealthURLs(handle))))
    added = guarded - plain
    judge(
        "CPU added per request, WSGI",
        f"plain: {plain:.2f} µs, guarded: {guarded:.2f} µs, adds {added:.2f} µs",
        figures=[(added <= 2, "at most 2 µs")],
    )


def test_asgi():
    scope = {"type": "http", "path": "/books/", "headers": []}
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b"ok"}

    async def app(scope, receive, send):
        await send(start)
        await send(body)

    async def send(message):
        return None

    def block_of(app):
        async def many():
            for _ in range(SIZE):
                await app(scope, None, send)

        return lambda: asyncio.run(many())

    handle = a_handle()
    count = request_count(handle.board.words, handle.base)
    guarded_app = GuardedASGI(app, HealthURLs(handle), count, admit=None, failed=None)
    plain, guarded = least(block_of(app)), least(block_of(guarded_app))
    added = guarded - plain
    judge(
        "CPU added per request, ASGI",
        f"plain: {plain:.2f} µs, guarded: {guarded:.2f} µs, adds {added:.2f} µs",
        figures=[(added <= 5, "at most 5 µs")],
    )
