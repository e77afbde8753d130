"""Wrappers around the loaded application, WSGI and ASGI. Runs in the worker.

They answer the health URLs and pass every other request on unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from importlib import import_module
from typing import Any

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.health import KINDS, Answer, ProbeKind, answer, bears_token, wants_json
from django_workerguard.scoreboard.layout import SeatState
from django_workerguard.server.workers.cancel_requests import Canceller
from django_workerguard.server.workers.queue_time import Queue, stated_start, transport_of
from django_workerguard.server.workers.request_counter import ANSWERED, ENTRY, RequestCount
from django_workerguard.worker.load import SENTINEL
from django_workerguard.worker.register import Register, start_of
from django_workerguard.worker.seat_handle import SeatHandle

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


TOO_LATE = 504  # the status of a request that was cancelled
# states of a loaded worker; a worker that leaves is still loaded
LOADED_STATES = (SeatState.LOADED, SeatState.READY, SeatState.LEAVING)


class HealthURLs:
    """The paths live/, ready/ and startup/ under the health path, and their responses.

    ``prefix``: a path under which they are also available.
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
            loaded=handle.state in LOADED_STATES,
            now=monotonic_ns() / 1e9,
            as_json=wants_json(accept),
            detailed=bears_token(authorization, handle.options.health_token),
        )


class GuardedWSGI:
    """A WSGI application that answers the health URLs and passes other requests on."""

    def __init__(self, app: WSGIApp, health: HealthURLs) -> None:
        self._app = app
        self._health = health
        self._kinds = health.kinds

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        kind = self._kinds.get(environ["PATH_INFO"])
        if kind is None:
            return self._app(environ, start_response)
        response = self._health.answer(
            kind,
            accept=environ.get("HTTP_ACCEPT", ""),
            authorization=environ.get("HTTP_AUTHORIZATION", ""),
        )
        return _respond(response, environ, start_response)


def _respond(answer: Answer, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ[ANSWERED] = True
    start_response(f"{answer.status} {answer.reason}", list(answer.headers))
    return [answer.body]


class RegisteredWSGI:
    """A WSGI application whose requests are entered in the register. The hook post_request takes them out.

    The application does not see those that have waited too long in the queue.
    """

    def __init__(self, app: WSGIApp, register: Register, queue: Queue) -> None:
        self._app = app
        self._enter = register.begin
        self._refusal = queue.refusal

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        refusal = self._refusal(environ.get("gunicorn.socket"), environ.get("HTTP_X_REQUEST_START"))
        if refusal is not None:
            return _respond(refusal, environ, start_response)
        target = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode("latin-1", "replace")
        environ[ENTRY] = self._enter(target)
        return self._app(environ, start_response)


class GuardedASGI:
    """An ASGI application that answers the health URLs, counts requests and watches the lifespan.

    ``admit`` is awaited after the application has started and before the server accepts. ``failed`` is called if the
    lifespan does not start.
    """

    def __init__(
        self,
        app: ASGIApp,
        health: HealthURLs,
        count: RequestCount,
        register: Register,
        queue: Queue,
        *,
        canceller: Canceller | None = None,
        admit: Callable[[], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._health = health
        self._kinds = health.kinds
        self._started = count.started
        self._ended = count.ended
        self._memory_error = count.memory_error
        self._enter = register.begin
        self._take_out = register.end
        self._answered = register.answered
        self._websockets = register.websockets
        self._limit = register.limit
        self._refusal = queue.refusal
        self._canceller = canceller
        self._admit = admit
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            probe = self._kinds.get(scope["path"]) or self._behind_prefix(scope)
            if probe is not None:
                await self._answer(probe, scope, send)
                return
            refusal = self._refuse(scope, receive)
            if refusal is not None:
                await _send_answer(refusal, send)
                return
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._other(scope, receive, send)

    def _refuse(self, scope: Scope, receive: Receive) -> Answer | None:
        transport = transport_of(receive)
        stated = stated_start(scope["headers"])
        if transport is None:
            return self._refusal(None, stated)
        return self._refusal(transport.get_extra_info("socket"), stated, lost=transport.is_closing())

    def _behind_prefix(self, scope: Scope) -> ProbeKind | None:
        """Return the probe of a path under the prefix ``root_path``, which some clients send twice."""
        prefix = scope.get("root_path")
        if not prefix:
            return None
        prefix = prefix.rstrip("/")
        inside: str = scope["path"].removeprefix(prefix)
        return self._kinds.get(inside) or self._kinds.get(inside.removeprefix(prefix))

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499  # the client went away; Django then returns without a response
        is_begun = is_left = False

        async def send_and_record(message: Any) -> None:
            nonlocal status, is_begun
            if message["type"] == "http.response.start":
                status = message["status"]
                is_begun = True
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._answered.add(token)

        token = self._begin(scope["method"], scope)
        if self._canceller is not None:
            self._canceller.start()
        try:
            await self._app(scope, receive, send_and_record)
        except MemoryError:
            status = 500
            self._memory_error()
            raise
        except Exception:
            status = 500
            raise
        except SystemExit:
            is_left = True
            raise
        except BaseException:
            canceller = self._canceller
            if canceller is not None and canceller.has_cancelled(token):
                status = TOO_LATE
                if not is_begun:
                    await self._answer_late(send_and_record)
                    return
            else:
                status = 499  # cancelled: the client went away
            raise
        finally:
            if (
                not is_left
            ):  # the worker ends by a SystemExit, and the arbiter finds the request that is lost with it
                self._ended(status, start_of(token))
                self._take_out(token)
            self._answered.discard(token)

    async def _answer_late(self, send: Send) -> None:
        """Answer a request that was cancelled. Django has not sent request_finished, which closes old connections."""
        await import_module(SENTINEL).finish_request()
        body = b"The request took too long.\n"
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": TOO_LATE, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _begin(self, method: str, scope: Scope) -> int:
        self._started()
        return self._enter(f"{method} {scope['path']}".encode(errors="replace"))

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self._begin(scope["type"], scope)
        self._limit(token, 0)  # a websocket may stay open for as long as it likes
        self._websockets.add(token)
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
            self._ended(status, 0)
            self._take_out(token)
            self._websockets.discard(token)

    async def _answer(self, kind: ProbeKind, scope: Scope, send: Send) -> None:
        headers = dict(scope["headers"])
        response = self._health.answer(
            kind,
            accept=headers.get(b"accept", b"").decode("latin-1"),
            authorization=headers.get(b"authorization", b"").decode("latin-1"),
        )
        await _send_answer(response, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Delay the end of the start-up until the worker is admitted.

        An application that raises before it has received a message, or because it does not know the scope, does not
        support lifespan. If it raises later, or sends that it failed, the load has failed.
        """
        begun = started = False

        async def receive_and_record() -> Any:
            nonlocal begun
            message = await receive()
            begun = True
            return message

        async def send_after_admission(message: Any) -> None:
            nonlocal started
            if message["type"] == "lifespan.startup.failed":
                self._failed(LifespanFailedError(message.get("message", "")))
            elif message["type"] == "lifespan.startup.complete":
                await self._admit()
                started = True
            await send(message)

        try:
            await self._app(scope, receive_and_record, send_after_admission)
        except BaseException as error:
            if started:
                raise
            if begun and not _is_unknown_scope(error):
                self._failed(error)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
            else:
                await self._admit()
                raise
        else:
            if not started:
                await self._admit()


def _is_unknown_scope(error: BaseException) -> bool:
    """Return whether an application, such as Django's or the router of Channels, refuses the scope by its name."""
    return isinstance(error, ValueError) and "lifespan" in str(error)


async def _send_answer(answer: Answer, send: Send) -> None:
    encoded = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
    await send({"type": "http.response.body", "body": answer.body})


class LifespanFailedError(Exception):
    """The application sent lifespan.startup.failed."""
