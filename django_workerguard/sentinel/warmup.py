"""Warm-up requests: call the loaded application without a server. Runs in the worker."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

FAILED = 500
REDIRECTS = frozenset({301, 302, 307, 308})


class WarmupError(Exception):
    """The response to a warm-up request was a server error."""


def warm_up(app: Callable[..., Any], path: str, *, interface: str) -> None:
    """Request a path and read the response to its end.

    For a status of 500 and above, raises the exception of the view if it is known, otherwise WarmupError.
    """
    from django.core.signals import got_request_exception

    raised: list[BaseException] = []

    def remember(**_: Any) -> None:
        import sys

        error = sys.exc_info()[1]
        if error is not None:
            raised.append(error)

    get = _get_asgi if interface == "asgi" else _get_wsgi
    got_request_exception.connect(remember)
    try:
        status, location = get(app, path, secure=_wants_https())
        if (
            status in REDIRECTS
            and location.startswith("https://")
            and urlsplit(location).path == urlsplit(path).path
        ):
            status, location = get(app, path, secure=True)
    finally:
        got_request_exception.disconnect(remember)
    if status < FAILED:
        return
    if raised:
        raise raised[0]
    raise WarmupError(f"the warm-up request {path} got the status {status}")


def host() -> str:
    """Return a Host header that ALLOWED_HOSTS accepts."""
    from django.conf import settings

    for pattern in settings.ALLOWED_HOSTS:
        if pattern != "*":
            return str(pattern).lstrip(".")
    return "localhost"


def _wants_https() -> bool:
    from django.conf import settings

    return bool(settings.SECURE_SSL_REDIRECT)


def _proxy_header() -> tuple[str, str] | None:
    """Return the header with which a proxy says that the request came over https, in WSGI's spelling."""
    from django.conf import settings

    return settings.SECURE_PROXY_SSL_HEADER or None


def _get_wsgi(app: Callable[..., Any], path: str, *, secure: bool) -> tuple[int, str]:
    split = urlsplit(path)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(split.path, "latin-1"),
        "QUERY_STRING": split.query,
        "SERVER_NAME": host(),
        "SERVER_PORT": "443" if secure else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": host(),
        "HTTP_USER_AGENT": "workerguard-warmup",
        "HTTP_ACCEPT": "*/*",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if secure else "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    header = _proxy_header()
    if secure and header:
        environ[header[0]] = header[1]
    result: dict[str, Any] = {}

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: Any = None
    ) -> Callable[[bytes], None]:
        result["status"] = int(status.split(maxsplit=1)[0])
        result["location"] = next((value for name, value in headers if name.lower() == "location"), "")
        return lambda _data: None

    response = app(environ, start_response)
    try:
        for _ in response:
            pass
    finally:
        if hasattr(response, "close"):
            response.close()
    return result["status"], result["location"]


def _get_asgi(app: Callable[..., Any], path: str, *, secure: bool) -> tuple[int, str]:
    """Run the request on its own event loop, to leave the worker's event loop alone."""
    import asyncio
    import threading

    outcome: list[Any] = []

    def on_its_own_loop() -> None:
        loop = asyncio.new_event_loop()
        try:
            outcome.append(loop.run_until_complete(_request(app, path, secure=secure)))
        except BaseException as error:
            outcome.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    runner = threading.Thread(target=on_its_own_loop, name="asyncio_warmup")
    runner.start()
    runner.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    status: int
    location: str
    status, location = outcome[0]
    return status, location


async def _request(app: Callable[..., Any], path: str, *, secure: bool) -> tuple[int, str]:
    import asyncio

    split = urlsplit(path)
    headers = [(b"host", host().encode()), (b"user-agent", b"workerguard-warmup"), (b"accept", b"*/*")]
    header = _proxy_header()
    if secure and header:
        headers.append(
            (header[0].removeprefix("HTTP_").replace("_", "-").lower().encode(), header[1].encode())
        )
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https" if secure else "http",
        "path": unquote(split.path),
        "raw_path": split.path.encode(),
        "query_string": split.query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": (host(), 443 if secure else 80),
    }
    result: dict[str, Any] = {"status": FAILED, "location": ""}
    sent = False
    ended = asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await ended.wait()
            return {"type": "http.disconnect"}
        sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            result["status"] = message["status"]
            result["location"] = next(
                (v.decode() for n, v in message["headers"] if n.lower() == b"location"), ""
            )
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            ended.set()

    from asgiref.sync import ThreadSensitiveContext, sync_to_async
    from django.db import connections

    # the thread of synchronous views, which has its own connections, ends with the context
    async with ThreadSensitiveContext():
        await app(scope, receive, send)
        await sync_to_async(connections.close_all)()
    return result["status"], result["location"]
