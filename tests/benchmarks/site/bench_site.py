"""Applications and URLconf of the benchmarks. FAIL_FILE: while it is there, loads fail in workers."""

import os
import time
from pathlib import Path

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

if (name := os.environ.get("FAIL_FILE")) and Path(name).exists():
    raise MemoryError("as if there were no memory")


def index(request):
    return HttpResponse(f"{os.getpid()}\n")


LEAKED = []


SPIN = 40_000  # turns of a loop


def work(request):
    """A view that computes, and waits as for a database; ``?leak=`` keeps so many kilobytes for ever."""
    sum(turn * turn for turn in range(SPIN))
    time.sleep(0.005)
    if leak := request.GET.get("leak"):
        LEAKED.append(b"x" * (int(leak) << 10))
    return HttpResponse(f"{os.getpid()}\n")


def wait(request):
    time.sleep(300)
    return HttpResponse("at last\n")


urlpatterns = [path("", index), path("work", work), path("wait", wait)]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
