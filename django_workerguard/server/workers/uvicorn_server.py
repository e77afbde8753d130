"""uvicorn's server and worker class, with a drain before they close. Runs in the worker."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from types import FrameType
from typing import Any

from uvicorn import Config, Server

from django_workerguard.errors import ExitCode
from django_workerguard.server.workers.drain import POLL, drain_deadline, stop_accepting
from django_workerguard.server.workers.executors import watch_executors
from django_workerguard.server.workers.loop_lag import watch_loop
from django_workerguard.worker.register import finish_register
from django_workerguard.worker.seat_handle import SeatHandle

LINGER = 2.0  # seconds for which an idle connection may still send a request, as in gunicorn's gthread


class DrainingServer(Server):
    """A server that, when asked to stop, sends "connection: close" with every response and waits for requests in hand.

    uvicorn's own server closes kept-alive connections and websockets (code 1012) at once.
    """

    def __init__(self, config: Config, *, mercy: float) -> None:
        super().__init__(config)
        self._mercy = mercy

    def quit(self) -> None:
        """Stop at once, without a drain."""
        self.should_exit = self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await stop_accepting(sockets or [], self.servers)
        await self._drain()
        await super().shutdown(sockets)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        idle_until = loop.time() + min(self.config.timeout_keep_alive, LINGER)
        until = drain_deadline(loop.time(), self._mercy)
        self._send_close_headers()
        while not self.force_exit and loop.time() < until:
            busy, idle = self._connections()
            if not busy and (not idle or loop.time() >= idle_until):
                break
            await self._beat()
            await asyncio.sleep(POLL)

    def _send_close_headers(self) -> None:
        """Add "connection: close" to every response that begins from now on; uvicorn then closes the connection.

        With the parser h11, uvicorn's `keep_alive = False` closes the connection without this header.
        """
        state = self.server_state
        state.default_headers = [*state.default_headers, (b"connection", b"close")]
        for connection in state.connections:
            cycle: Any = getattr(connection, "cycle", None)
            if cycle is not None:  # it has its own copy
                cycle.default_headers = state.default_headers

    def _connections(self) -> tuple[int, int]:
        """Return the number of busy connections (a request in hand, or a websocket), and of idle ones."""
        busy = sum(1 for connection in self.server_state.connections if _is_busy(connection))
        return busy + len(self.server_state.tasks), len(self.server_state.connections) - busy

    async def _beat(self) -> None:
        if self.config.callback_notify is not None:
            await self.config.callback_notify()


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(ExitCode.OK)


def _is_busy(connection: Any) -> bool:
    if hasattr(connection, "cycle"):  # HTTP/1
        return connection.cycle is not None and not connection.cycle.response_complete
    return bool(getattr(connection, "cycles", True))  # HTTP/2; a websocket has neither


class DrainingUvicorn:
    """A mixin for uvicorn's worker class. The worker finishes its open requests before it stops; SIGQUIT stops it at once."""

    # attributes of the worker class
    seat_handle: SeatHandle
    sockets: list[Any]
    cfg: Any
    config: Any
    wsgi: Any
    WORKER_BOOT_ERROR = 3

    def init_signals(self) -> None:
        super().init_signals()  # type: ignore[misc] # gunicorn's
        # uvicorn raises each signal once more when it has stopped; by default the process would end without its exit hooks
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)

    async def _serve(self) -> None:
        watch_executors(self.seat_handle)
        watch_loop(self.seat_handle)
        self.config.app = self.wsgi
        server = DrainingServer(self.config, mercy=self.cfg.graceful_timeout)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        try:
            await server.serve(sockets=self.sockets)
        finally:
            finish_register()  # the end of the loop cancels them
        if not server.started:
            sys.exit(self.WORKER_BOOT_ERROR)
