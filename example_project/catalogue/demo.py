"""Requests that a server finds hard: a slow one, a streamed one, one that fails. Run in a worker."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.http import require_safe

from site_config.context import describe_worker


class DeliberateError(Exception):
    """Raised by a page whose purpose it is."""


@require_safe
def slow(request: HttpRequest) -> HttpResponse:
    """Answer after `?seconds=` (2; at most 30)."""
    seconds = _bounded(request, "seconds", default=2.0, most=30.0)
    time.sleep(seconds)
    return HttpResponse(f"{_signature()} answered after {seconds:g} s\n", content_type="text/plain")


@require_safe
def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send `?lines=` lines (10; at most 200), one every `?every=` seconds (0.5; at most 5)."""
    lines = int(_bounded(request, "lines", default=10, most=200))
    every = _bounded(request, "every", default=0.5, most=5.0)
    # Django can stream an asynchronous iterator only from ASGI, and a plain one well only from WSGI.
    body = _lines_async(lines, every) if isinstance(request, ASGIRequest) else _lines(lines, every)
    return StreamingHttpResponse(body, content_type="text/plain", headers={"X-Accel-Buffering": "no"})


@require_safe
def fail(request: HttpRequest) -> HttpResponse:
    raise DeliberateError("this page always fails: the worker must live on")


def _lines(count: int, every: float) -> Iterator[str]:
    for number in range(1, count + 1):
        yield f"{number}/{count} from {_signature()}\n"
        time.sleep(every)


async def _lines_async(count: int, every: float) -> AsyncIterator[str]:
    for number in range(1, count + 1):
        yield f"{number}/{count} from {_signature()}\n"
        await asyncio.sleep(every)


def _signature() -> str:
    worker = describe_worker()
    return f"slot {worker['slot']}, pid {worker['pid']}" if worker["guarded"] else f"pid {worker['pid']}"


def _bounded(request: HttpRequest, name: str, *, default: float, most: float) -> float:
    try:
        value = float(request.GET.get(name, default))
    except ValueError:
        return default
    return min(value, most) if value >= 0 else default
