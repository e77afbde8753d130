"""The headers X-Worker-Pid and X-Worker-Slot on every response. Runs in a worker."""

import os
from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from django_workerguard import current_worker


class WorkerHeadersMiddleware:
    """Say in the response which process and which slot made it."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self.is_async:
            return self._respond_async(request)
        return _signed(self.get_response(request))

    async def _respond_async(self, request: HttpRequest) -> HttpResponseBase:
        return _signed(await self.get_response(request))


def _signed(response: HttpResponseBase) -> HttpResponseBase:
    response["X-Worker-Pid"] = str(os.getpid())
    if (worker := current_worker()) is not None:
        response["X-Worker-Slot"] = str(worker.slot)
    return response
