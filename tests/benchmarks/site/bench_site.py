"""Applications and URLconf of the benchmarks. FAIL_FILE: while it is there, loads fail in workers."""

import os
from pathlib import Path

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

if (name := os.environ.get("FAIL_FILE")) and Path(name).exists():
    raise MemoryError("as if there were no memory")


def index(request):
    return HttpResponse(f"{os.getpid()}\n")


urlpatterns = [path("", index)]

wsgi = get_wsgi_application()
asgi = get_asgi_application()
