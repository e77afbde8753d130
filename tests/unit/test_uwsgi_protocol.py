"""What the variables of the uwsgi protocol become in the scope of an ASGI application."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest

from django_workerguard.server.workers.uwsgi_protocol import UwsgiASGI, UwsgiWSGI


class Connection:
    """The object that gunicorn's ``receive`` or ``start_response`` is a method of."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.request = self.req = self
        self.uwsgi_vars = variables
        self.scheme = "http"

    def force_close(self) -> None:
        pass

    async def receive(self) -> None:
        raise AssertionError

    def start_response(self, *_: Any) -> None:
        raise AssertionError


def under_asgi(variables: dict[str, str]) -> ASGIRequest:
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "root_path": "",
        "headers": [],
        "query_string": b"",
    }
    asyncio.run(UwsgiASGI(app)(scope, Connection(variables).receive, lambda _: None))  # type: ignore[arg-type,return-value]
    return ASGIRequest(seen[0], None)


def under_wsgi(variables: dict[str, str]) -> WSGIRequest:
    seen: list[Any] = []
    environ = {"wsgi.input": io.BytesIO()}
    UwsgiWSGI(lambda environ, _: seen.append(environ) or [])(environ, Connection(variables).start_response)
    return WSGIRequest(seen[0])


@pytest.mark.parametrize(
    "variables",
    [
        {"PATH_INFO": "/books/"},
        {"PATH_INFO": "/books/", "SCRIPT_NAME": "/app"},
        {"PATH_INFO": "/app/books/", "SCRIPT_NAME": "/app"},
        {"PATH_INFO": "/", "SCRIPT_NAME": "/app"},
    ],
)
def test_django_sees_the_same_path_under_both_interfaces(variables):
    variables["REQUEST_METHOD"] = "GET"
    ours, expected = under_asgi(variables), under_wsgi(variables)
    assert (ours.path, ours.path_info) == (expected.path, expected.path_info)
    assert ours.META["SCRIPT_NAME"] == expected.META.get("SCRIPT_NAME", "")


def test_a_port_of_any_length_does_not_fail_a_request():
    request = under_asgi({"PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1", "REMOTE_PORT": "9" * 5000})
    assert request.META["REMOTE_PORT"] == 0
