"""Requests that come by the uwsgi protocol, as nginx's `uwsgi_pass` sends them. Runs in the worker.

gunicorn reads the protocol, but passes on only the method, the path, the query and the headers. Here the application gets
every variable, as under uWSGI: who the client is, under which name, port and prefix it has asked, and whatever else
nginx's configuration adds. gunicorn reads them only from a peer in its `uwsgi_allow_from`, or on a unix socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from django_workerguard.server.workers.wrapper import ASGIApp, Receive, Scope, Send, WSGIApp

Variables = Mapping[str, str]
LONGEST_PORT = 5  # digits


class UwsgiWSGI:
    """A WSGI application whose environ has the variables of the uwsgi protocol."""

    def __init__(self, app: WSGIApp) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = start_response.__self__.req  # type: ignore[attr-defined] # it is a method of gunicorn's response
        _end_with_the_response(request)
        variables = _plain(request.uwsgi_vars)
        environ.update(variables)
        environ["PATH_INFO"] = _path(variables)
        environ["wsgi.url_scheme"] = _scheme(variables, request.scheme)
        return self._app(environ, start_response)


class UwsgiASGI:
    """An ASGI application whose scope says what the variables of the uwsgi protocol say. It has no place for the others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = receive.__self__.request  # type: ignore[attr-defined] # it is a method of gunicorn's body receiver
            _end_with_the_response(request)
            variables = _plain(request.uwsgi_vars)
            prefix = variables.get("SCRIPT_NAME", "").rstrip("/")
            scope["path"] = _text(prefix + _path(variables))  # ASGI's path has the prefix, PATH_INFO does not
            scope["root_path"] = _text(prefix) or scope["root_path"]
            scope["headers"] = _headers(variables)
            scope["scheme"] = _scheme(variables, request.scheme)
            if variables.get("REMOTE_ADDR"):
                scope["client"] = (variables["REMOTE_ADDR"], _port(variables.get("REMOTE_PORT", "")))
            if variables.get("SERVER_NAME"):
                scope["server"] = (variables["SERVER_NAME"], _port(variables.get("SERVER_PORT", "")))
        await self._app(scope, receive, send)


def _end_with_the_response(request: Any) -> None:
    """Close the connection after the response, as uWSGI does: nginx reads until then, and decodes no chunks."""
    request.version = (1, 0)
    request.force_close()


def _plain(variables: Variables) -> dict[str, str]:
    """Leave out names with a dot: those are of the server, such as wsgi.input."""
    return {name: value for name, value in variables.items() if "." not in name}


def _headers(variables: Variables) -> list[tuple[bytes, bytes]]:
    """Return the headers of a scope. gunicorn has two of content-length, because nginx sends it under two names."""
    own = {name: variables[name] for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if variables.get(name)}
    others = {
        name.removeprefix("HTTP_"): value
        for name, value in variables.items()
        if name.startswith("HTTP_") and name not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH")
    }
    return [
        (name.lower().replace("_", "-").encode("latin-1"), value.encode("latin-1"))
        for name, value in (others | own).items()
    ]


def _path(variables: Variables) -> str:
    """Return the path as a WSGI string. nginx has decoded it; without it, it is that of the address."""
    if "PATH_INFO" in variables:
        return variables["PATH_INFO"]
    address = variables.get("REQUEST_URI", "/").partition("?")[0]
    return unquote_to_bytes(address.encode("latin-1")).decode("latin-1")


def _text(value: str) -> str:
    """Return a WSGI string as the text that it stands for."""
    return value.encode("latin-1").decode(errors="replace")


def _scheme(variables: Variables, known: str) -> str:
    return variables.get("UWSGI_SCHEME") or known


def _port(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= LONGEST_PORT else 0
