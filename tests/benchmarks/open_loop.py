"""An open loop of requests: each has its time, whatever became of those before it. Latency counts from there."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter
from dataclasses import dataclass, field

PATIENCE = 20.0  # seconds


@dataclass
class Seen:
    """What became of the requests. ``seconds``: from the time at which each was due."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    retried: int = 0

    @property
    def failed(self) -> int:
        return sum(count for what, count in self.outcomes.items() if what != "200")

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.seconds, n=100)[98] * 1000

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.seconds) * 1000


def run(port: int, path: str, *, rate: float, seconds: float, kept_alive: int = 0) -> Seen:
    """Make ``rate`` requests a second for so long, over new connections, or over so many kept-alive ones."""
    return asyncio.run(_run(port, path, rate=rate, seconds=seconds, kept_alive=kept_alive))


async def _run(port: int, path: str, *, rate: float, seconds: float, kept_alive: int) -> Seen:
    seen = Seen()
    loop = asyncio.get_running_loop()
    start = loop.time()
    pool: asyncio.Queue[Kept] = asyncio.Queue()
    for _ in range(kept_alive):
        pool.put_nowait(Kept(port))
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(asyncio.create_task(_one(seen, port, path, due, pool if kept_alive else None)))
    await asyncio.gather(*tasks)
    while not pool.empty():
        pool.get_nowait().close()
    await asyncio.sleep(0.01)  # until they are closed
    return seen


async def _one(seen: Seen, port: int, path: str, due: float, pool: asyncio.Queue[Kept] | None) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE):
            status = await (_fresh(port, path) if pool is None else _kept(seen, pool, path))
    except (OSError, TimeoutError, EOFError) as error:
        status = type(error).__name__
    seen.outcomes[status] += 1
    seen.seconds.append(loop.time() - due)


async def _fresh(port: int, path: str) -> str:
    connection = Kept(port)
    try:
        return await connection.ask(path, "close")
    finally:
        connection.close()


async def _kept(seen: Seen, pool: asyncio.Queue[Kept], path: str) -> str:
    connection = await pool.get()
    try:
        try:
            return await connection.ask(path, "keep-alive")
        except ClosedBeforeAnyByteError:
            seen.retried += 1
            return await connection.ask(path, "keep-alive")
    finally:
        pool.put_nowait(connection)


class ClosedBeforeAnyByteError(ConnectionError):
    """The connection was closed where a client may try again: nothing of a response had come."""


class Kept:
    """A connection that is opened when it is needed, and again when the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str, connection: str) -> str:
        """Make one request and return the status, with the body read."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        try:
            writer.write(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n".encode()
            )
            await writer.drain()
            line = await reader.readline()
        except ConnectionError as error:
            self.close()
            raise ClosedBeforeAnyByteError from error
        if not line:
            self.close()
            raise ClosedBeforeAnyByteError
        head = await reader.readuntil(b"\r\n\r\n")
        await self._body(reader, head.lower())
        if b"connection: close" in head.lower() or connection == "close":
            self.close()
        return line.split()[1].decode()

    async def _body(self, reader: asyncio.StreamReader, head: bytes) -> None:
        if b"content-length: " in head:
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        elif b"transfer-encoding: chunked" not in head:  # uWSGI's ends with the connection
            await reader.read()
            self.close()
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()

    def close(self) -> None:
        if self._streams is not None:
            with contextlib.suppress(OSError):
                self._streams[1].close()
        self._streams = None
