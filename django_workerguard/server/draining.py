"""How an asyncio worker leaves: it stops accepting, then answers what it has accepted. Runs in the worker.

Between `accept` and the first byte read a connection belongs to nobody: asyncio drops it
when its server closes, and uvicorn closes every connection that has no request in hand,
a request on its way or not. A worker that is replaced under load would lose one now and then.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterable
from typing import Any

SETTLE = 8  # rounds of the loop in which an accepted connection gets its protocol and is read


async def stop_accepting(sockets: Iterable[Any]) -> None:
    """Accept nothing more, and let the loop take up what it has accepted."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):  # uvloop takes a connection up in one go
        for listener in sockets:
            loop.remove_reader(listener.fileno())
    for _ in range(SETTLE):
        await asyncio.sleep(0)


class DrainingASGI:
    """gunicorn's asgi class, which drops what it has accepted and not yet taken up."""

    sockets: list[Any]

    async def _shutdown(self) -> None:
        await stop_accepting(self.sockets)
        await super()._shutdown()  # type: ignore[misc]


class DrainingUvicorn:
    """uvicorn's worker class with a server that drains, and that SIGQUIT ends."""

    # the worker class, as far as it is leaned on
    sockets: list[Any]
    cfg: Any
    config: Any
    wsgi: Any
    WORKER_BOOT_ERROR = 3

    async def _serve(self) -> None:
        from django_workerguard.server.uvicorn_server import DrainingServer  # late: uvicorn is an extra

        self.config.app = self.wsgi
        server = DrainingServer(self.config, mercy=self.cfg.graceful_timeout)
        asyncio.get_running_loop().add_signal_handler(signal.SIGQUIT, server.quit)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(self.WORKER_BOOT_ERROR)
