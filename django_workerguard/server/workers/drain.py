"""The drain of an asyncio worker: it stops accepting, then answers the requests that it has accepted. Runs in the worker.

Between `accept` and the first byte read, a connection has no protocol yet. asyncio drops it when its server closes, and
uvicorn closes every connection without a request in hand, even if a request is on its way. A worker that is replaced
under load would lose a request now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from django_workerguard.server.workers.executors import watch_executors
from django_workerguard.server.workers.loop_lag import watch_loop
from django_workerguard.worker.register import finish_register
from django_workerguard.worker.seat_handle import SeatHandle

SETTLE = 8  # rounds of the event loop, so that each accepted connection gets its protocol and is read
POLL = 0.05  # seconds between two checks of the connections
RESERVED = 1.0  # seconds of the mercy for the last steps: closing frames, the end of the lifespan


async def stop_accepting(sockets: Iterable[Any], servers: Iterable[asyncio.AbstractServer]) -> None:
    """Stop accepting, and let the event loop start the accepted connections."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for listener in sockets:
            loop.remove_reader(listener.fileno())
    else:  # uvloop accepts and starts a connection in one step, and loses none when its server closes
        for server in servers:
            server.close()
    for _ in range(SETTLE):
        await asyncio.sleep(0)


def drain_deadline(stop_requested: float, mercy: float) -> float:
    """Return the time until which a worker that was asked to stop waits for its requests in hand."""
    return stop_requested + max(mercy - RESERVED, mercy / 2)


class DrainingASGI:
    """A mixin for gunicorn's asgi class that drains it.

    Without it, the class loses connections that it has accepted but not started, and always waits for the whole mercy.
    """

    # attributes of the worker class
    seat_handle: SeatHandle
    sockets: list[Any]
    servers: list[asyncio.AbstractServer]
    nr_conns: int
    loop: asyncio.AbstractEventLoop
    cfg: Any
    _quick_shutdown: bool
    _stop_requested = 0.0

    async def _serve(self) -> None:
        watch_executors(self.seat_handle)
        watch_loop(self.seat_handle)
        await super()._serve()  # type: ignore[misc]

    def handle_exit_signal(self) -> None:
        self._stop_requested = self._stop_requested or self.loop.time()
        super().handle_exit_signal()  # type: ignore[misc]

    async def _shutdown(self) -> None:
        await stop_accepting(self.sockets, self.servers)
        until = drain_deadline(self._stop_requested or self.loop.time(), self.cfg.graceful_timeout)
        while self.nr_conns > 0 and not self._quick_shutdown and self.loop.time() < until:
            await asyncio.sleep(POLL)
        self.cfg.set("graceful_timeout", 0)  # already used up
        await super()._shutdown()  # type: ignore[misc]

    def _cleanup(self) -> None:
        finish_register()  # it cancels them
        super()._cleanup()  # type: ignore[misc]
