"""CPU that the guard adds to a request, in process: the least of 20 blocks of 10,000."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import contextmanager
from types import SimpleNamespace

from gunicorn.config import Config
from gunicorn.http.body import LengthReader

from django_workerguard.config.load_request import LoadRequest
from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
from django_workerguard.server.workers.connection_close import close_without_waiting
from django_workerguard.server.workers.mixin import task_identity
from django_workerguard.server.workers.queue_time import Queue
from django_workerguard.server.workers.request_counter import chain_hooks, request_count
from django_workerguard.server.workers.wrapper import GuardedASGI, GuardedWSGI, HealthURLs, RegisteredWSGI
from django_workerguard.worker.register import NO_REQUEST, Register
from django_workerguard.worker.seat_handle import SeatHandle
from django_workerguard.worker.view_memory import NEVER, PAUSE, ViewTable
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

    handle = a_handle()
    count = request_count(handle.board, handle.seat)

    def guarded(inner, queue: Queue | None, memory: type[ViewTable] = NoMemory):
        worker, register = a_worker(), Register(handle.board, handle.seat, memory=memory(handle.board, 0))
        chain_hooks(worker, count, register, answered=closer.record)
        wrapped = RegisteredWSGI(resolving(inner, register), register, queue) if queue else inner
        return least(block_of(worker, GuardedWSGI(wrapped, HealthURLs(handle))))

    with a_connection() as client:
        environ["gunicorn.socket"] = client
        closer = close_without_waiting()
        assert closer is not None
        plain = least(block_of(a_worker(), app))
        nobody = NoQueue(count, 0, Config(), [])
        without, registered = guarded(app, None), guarded(app, nobody)
        queued = guarded(app, Queue(count, 10, Config(), [client]))
        seldom, always = guarded(app, nobody, ViewTable), guarded(app, nobody, EachRequest)
    report_memory("WSGI", registered, seldom, always)
    report("WSGI", plain, without, registered, queued, most=2)


@contextmanager
def a_connection():
    """Yield the server's side of a TCP connection on which data has arrived."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        accepted, _ = listener.accept()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with accepted:
            yield accepted


class NoQueue(Queue):
    """A queue in which nobody waits."""

    def refusal(self, sock, stated, *, lost=False):
        return None


def resolving(app, register):
    """What the hook of `name_views` adds, once Django has chosen the view."""

    def application(environ, start_response):
        register.name_view("books.views.index")
        return app(environ, start_response)

    return application


class NoMemory(ViewTable):
    """A table of memory by view that nothing is written into."""

    def __init__(self, board, seat):
        super().__init__(board, seat)
        self.due = NEVER


class EachRequest(ViewTable):
    """A table of memory by view for which each request is measured."""

    def _pause(self, started):
        self.due = 0


class NoRegister(Register):
    """A register that does nothing, and whose requests have no duration."""

    def begin(self, target):
        return NO_REQUEST

    def end(self, token):
        pass


def report(
    interface: str, plain: float, without: float, registered: float, queued: float, *, most: float
) -> None:
    register, queue = registered - without, queued - registered
    judge(
        f"CPU added per request, {interface}",
        f"plain: {plain:.2f} µs, guarded without the register: {without:.2f} µs, with it: {registered:.2f} µs, with "
        f"the time in the queue: {queued:.2f} µs",
        figures=[
            (without - plain <= 2, f"the guard without the register: {without - plain:.2f} µs, at most 2"),
            (register <= most, f"the register and the histogram: {register:.2f} µs, at most {most:g}"),
            (queue <= most, f"the time in the queue: {queue:.2f} µs, at most {most:g}"),
        ],
    )


def report_memory(interface: str, registered: float, seldom: float, always: float) -> None:
    """Judge memory by view: the cost of a request that is not measured, of one that is, and of 500 in a second."""
    one, measured = seldom - registered, always - registered
    average = one + (measured - one) * 1e9 / PAUSE / 500
    judge(
        f"CPU added per request by the memory by view, {interface}",
        f"not measured: {one:.2f} µs, measured: {measured:.2f} µs",
        figures=[(average <= 1, f"on average with 500 requests a second: {average:.2f} µs, at most 1")],
    )


def test_asgi():
    scope = {"type": "http", "method": "GET", "path": "/books/", "headers": []}
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b"ok"}

    async def app(scope, receive, send):
        await send(start)
        await send(body)

    async def send(message):
        return None

    def block_of(app):
        receive = Connection(client).receive

        async def many():
            for _ in range(SIZE):
                await app(scope, receive, send)

        return lambda: asyncio.run(many())

    def resolved(register):
        async def application(scope, receive, send):
            register.name_view("books.views.index")
            await app(scope, receive, send)

        return application

    handle = a_handle()
    count = request_count(handle.board, handle.seat)

    def a_register(memory: type[ViewTable] = NoMemory):
        return Register(handle.board, handle.seat, task_identity(), memory(handle.board, 0))

    def guarded(inner, register, queue):
        return least(
            block_of(GuardedASGI(inner, HealthURLs(handle), count, register, queue, admit=None, failed=None))
        )

    nobody = NoQueue(count, 0, Config(), [])
    with a_connection() as client:
        plain = least(block_of(app))
        without = guarded(app, NoRegister(handle.board, handle.seat), nobody)
        register = a_register()
        registered = guarded(resolved(register), register, nobody)
        queued = guarded(resolved(register), register, Queue(count, 10, Config(), [client]))
        register = a_register(ViewTable)
        seldom = guarded(resolved(register), register, nobody)
        register = a_register(EachRequest)
        always = guarded(resolved(register), register, nobody)
    report_memory("ASGI", registered, seldom, always)
    report("ASGI", plain, without, registered, queued, most=4)


class Connection:
    """An object like uvicorn's, whose method receive belongs to a transport."""

    def __init__(self, sock):
        self.transport = self
        self.sock = sock

    def get_extra_info(self, name):
        return self.sock

    def is_closing(self):
        return False

    async def receive(self):
        raise NotImplementedError
