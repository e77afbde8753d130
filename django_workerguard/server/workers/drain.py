"""How an asyncio worker leaves: it stops accepting, then answers what it has accepted. Runs in the worker.

Between `accept` and the first byte read a connection belongs to nobody: asyncio drops it
when its server closes, and uvicorn closes every connection that has no request in hand,
a request on its way or not. A worker that is replaced under load would lose one now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

SETTLE = 8  # rounds of the loop in which an accepted connection gets its protocol and is read
POLL = 0.05  # seconds between two looks at the connections
LAST = 1.0  # seconds of the mercy that are left for the rest: closing frames, the end of the lifespan


async def stop_accepting(sockets: Iterable[Any], servers: Iterable[asyncio.AbstractServer]) -> None:
    """Accept nothing more, and let the loop take up what it has accepted."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for listener in sockets:
            loop.remove_reader(listener.fileno())
    else:  # uvloop takes a connection up in one go, and its closed server drops none
        for server in servers:
            server.close()
    for _ in range(SETTLE):
        await asyncio.sleep(0)


def drain_deadline(asked: float, mercy: float) -> float:
    """Return until when a worker that was asked to leave waits for what is under way."""
    return asked + max(mercy - LAST, mercy / 2)


class DrainingASGI:
    """gunicorn's asgi class, which drops what it has accepted and not yet taken up, and waits for the whole mercy."""

    # the worker class, as far as it is leaned on
    sockets: list[Any]
    servers: list[asyncio.AbstractServer]
    nr_conns: int
    loop: asyncio.AbstractEventLoop
    cfg: Any
    _quick_shutdown: bool
    _asked = 0.0

    def handle_exit_signal(self) -> None:
        self._asked = self._asked or self.loop.time()
        super().handle_exit_signal()  # type: ignore[misc]

    async def _shutdown(self) -> None:
        await stop_accepting(self.sockets, self.servers)
        until = drain_deadline(self._asked or self.loop.time(), self.cfg.graceful_timeout)
        while self.nr_conns > 0 and not self._quick_shutdown and self.loop.time() < until:
            await asyncio.sleep(POLL)
        self.cfg.set("graceful_timeout", 0)  # it has been given
        await super()._shutdown()  # type: ignore[misc]
