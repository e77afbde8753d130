"""What stands between the server and the loaded application. Runs in the worker.

It answers the health URLs and hands every other request on untouched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.health import KINDS, Answer, ProbeKind, answer, bears_token, wants_json
from django_workerguard.scoreboard.layout import SeatState
from django_workerguard.server.workers.request_counter import PROBE, RequestCount
from django_workerguard.worker.seat_handle import SeatHandle

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


# what a worker says of itself that answers requests; one that leaves is loaded as well
ANSWERS = (SeatState.LOADED, SeatState.READY, SeatState.LEAVING)


class HealthURLs:
    """The paths live/, ready/ and startup/ under the health path, and their answers.

    ``prefix``: a path below which they are found too.
    """

    def __init__(self, handle: SeatHandle, *, prefix: str = "") -> None:
        self._handle = handle
        self.kinds: dict[str, ProbeKind] = {}
        for place in ("", prefix.rstrip("/")):
            for kind in KINDS:
                path = f"{place}{handle.options.health_path}{kind}"
                self.kinds[path] = self.kinds[f"{path}/"] = kind

    def answer(self, kind: ProbeKind, *, accept: str, authorization: str) -> Answer:
        handle = self._handle
        return answer(
            kind,
            handle.board.vitals,
            loaded=handle.state in ANSWERS,
            now=monotonic_ns() / 1e9,
            as_json=wants_json(accept),
            detailed=bears_token(authorization, handle.options.health_token),
        )


class GuardedWSGI:
    """A WSGI application with the health URLs in front."""

    def __init__(self, app: WSGIApp, health: HealthURLs) -> None:
        self._app = app
        self._health = health
        self._kinds = health.kinds

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind = self._kinds.get(environ["PATH_INFO"])
        if kind is None:
            return self._app(environ, start_response)
        told = self._health.answer(
            kind,
            accept=environ.get("HTTP_ACCEPT", ""),
            authorization=environ.get("HTTP_AUTHORIZATION", ""),
        )
        environ[PROBE] = True
        start_response(f"{told.status} {told.reason}", list(told.headers))
        return [told.body]


class GuardedASGI:
    """An ASGI application with the health URLs in front, its requests counted, its lifespan watched.

    ``admit`` is awaited when the application has started and before the server accepts;
    ``failed`` is told of a lifespan that did not start.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        health: HealthURLs,
        count: RequestCount,
        *,
        admit: Callable[[], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._health = health
        self._kinds = health.kinds
        self._started = count.started
        self._ended = count.ended
        self._memory_error = count.memory_error
        self._admit = admit
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            probe = self._kinds.get(scope["path"]) or self._behind_prefix(scope)
            if probe is not None:
                await self._answer(probe, scope, send)
                return
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    def _behind_prefix(self, scope: Scope) -> ProbeKind | None:
        """Return the probe that a path is below the prefix, which comes with ``root_path`` and, of some clients, twice."""
        prefix = scope.get("root_path")
        if not prefix:
            return None
        prefix = prefix.rstrip("/")
        inside: str = scope["path"].removeprefix(prefix)
        return self._kinds.get(inside) or self._kinds.get(inside.removeprefix(prefix))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499  # the client went away: Django then returns without an answer

        async def seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._started()
        try:
            await self._app(scope, receive, seen)
        except MemoryError:
            status = 500
            self._memory_error()
            raise
        except Exception:
            status = 500
            raise
        except BaseException:
            status = 499  # cancelled: it went away
            raise
        finally:
            self._ended(status)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._started()
        status = 500
        try:
            await self._app(scope, receive, send)
            status = 200
        except Exception:
            raise
        except BaseException:
            status = 499
            raise
        finally:
            self._ended(status)

    async def _answer(self, kind: ProbeKind, scope: Scope, send: Send) -> None:
        headers = dict(scope["headers"])
        told = self._health.answer(
            kind,
            accept=headers.get(b"accept", b"").decode("latin-1"),
            authorization=headers.get(b"authorization", b"").decode("latin-1"),
        )
        coded = [(name.lower().encode(), value.encode()) for name, value in told.headers]
        await send({"type": "http.response.start", "status": told.status, "headers": coded})
        await send({"type": "http.response.body", "body": told.body})

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the end of the start-up back until the worker is admitted.

        An application that raises before it has received anything has no lifespan; one
        that raises after it, or says that it failed, could not load.
        """
        begun = started = False

        async def received() -> Any:
            nonlocal begun
            message = await receive()
            begun = True
            return message

        async def sent(message: Any) -> None:
            nonlocal started
            if message["type"] == "lifespan.startup.failed":
                self._failed(LifespanFailedError(message.get("message", "")))
            elif message["type"] == "lifespan.startup.complete":
                await self._admit()
                started = True
            await send(message)

        try:
            await self._app(scope, received, sent)
        except BaseException as error:
            if begun and not started:
                self._failed(error)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            elif not begun:
                await self._admit()
                raise
            else:
                raise
        else:
            if not started:
                await self._admit()


class LifespanFailedError(Exception):
    """The application said lifespan.startup.failed."""
