import asyncio
import functools
import gc
import os
import signal
import sys
import threading
import time
from typing import ClassVar

from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from guinea_faults import fault

from django_workerguard import current_worker, extend_deadline, request_timeout
from django_workerguard.errors import ConfigurationError
from guinea_app.pairs import Process, register

fault("views")


class Health:
    sick = False
    tired = False
    leaked: ClassVar[list[bytearray]] = []


def sicken(request):
    Health.sick = True
    return HttpResponse("from now on this process fails\n")


def tire(request):
    Health.tired = True
    return HttpResponse("from now on this process is slow\n")


def index(request):
    if Health.tired:
        time.sleep(0.6)
    if Health.sick:
        return HttpResponse("sick\n", status=500)
    return HttpResponse(f"pid {os.getpid()}\n")


def who(request):
    worker = current_worker()
    collection = f"collected-after={gc.get_threshold()[0]}"
    return HttpResponse(f"slot={worker.slot} release={worker.release} loaded={worker.loaded} {collection}\n")


KEPT = current_worker()  # at the import


def kept(request):
    return HttpResponse(f"slot={KEPT.slot} pid={KEPT.pid}\n")


def page(request):
    return render(request, "page.html", {"pid": os.getpid()})


def slow(request):
    time.sleep(float(request.GET.get("seconds", "1")))
    return HttpResponse(f"pid {os.getpid()}\n")


def meta(request, more=""):
    told = {name: value for name, value in request.META.items() if isinstance(value, str)}
    return JsonResponse({**told, "path": request.path, "secure": request.is_secure(), "more": more})


def read(request):
    return HttpResponse(f"read {len(request.body)}\n")


def starved_stream(request):
    def lines():
        yield "begun\n"
        raise MemoryError

    return StreamingHttpResponse(lines(), content_type="text/plain")


def stream(request):
    def lines():
        for number in range(int(request.GET.get("lines", "5"))):
            yield f"line {number}\n"
            time.sleep(0.2)

    return StreamingHttpResponse(lines(), content_type="text/plain")


def fork(request):
    """Fork a process that writes where the worker does, end it by SIGTERM, and say how it ended."""
    board = current_worker().board
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"none" if current_worker() is None else b"worker")
        for word in range(64, len(board.words)):  # all but the header
            board.words[word] = 0
        os.write(writer, b".")
        time.sleep(60)
        os._exit(9)
    seen = b""
    while not seen.endswith(b"."):
        seen += os.read(reader, 100)
    os.kill(pid, getattr(signal, f"SIG{request.GET.get('signal', 'TERM')}"))
    _, status = os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return HttpResponse(f"{seen.decode()} {os.waitstatus_to_exitcode(status)}\n")


def grow(request):
    Health.hoard = bytearray(b"x") * (int(request.GET.get("mb", "50")) << 20)
    return HttpResponse(f"pid {os.getpid()}\n")


def leak(request):
    Health.leaked.append(bytearray(b"x") * (int(request.GET["mb"]) << 20))
    return HttpResponse(f"pid {os.getpid()}\n")


def download(request):
    return HttpResponse(b"x" * (int(request.GET["mb"]) << 20))


def starve(request):
    raise MemoryError


def broken(request):
    raise RuntimeError("this view always fails")


def leave(request):
    sys.exit(3)


def warm(request):
    fault("warm")
    return HttpResponse("warm\n")


def ticks(request):
    with Process.ticker.lock:
        return HttpResponse(f"{Process.ticker.ticks}\n")


def pause(request):
    try:
        register("start-raises")
    except ConfigurationError as error:
        return HttpResponse(str(error), status=500)
    return HttpResponse("registered\n")


def counted(request):
    counter().inc()
    return HttpResponse("counted\n")


def own_metrics(request):
    """Answer the project's own page of metrics, as prometheus_client's documentation has it for several processes."""
    from prometheus_client import CollectorRegistry, generate_latest, multiprocess

    from django_workerguard.contrib.prometheus import WorkerguardCollector

    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    registry.register(WorkerguardCollector())
    return HttpResponse(generate_latest(registry), content_type="text/plain; version=0.0.4")


@functools.cache
def counter():
    from prometheus_client import Counter

    return Counter("guinea_counted", "How often /counted was asked for.")


def hang(request):
    """Wait in a lock, or in C with the interpreter lock held, or compute, for some seconds."""
    seconds = float(request.GET.get("seconds", "30"))
    match request.GET["how"]:
        case "lock":
            _locked_twice(seconds)
        case "gil":
            sum(range(int(seconds * 5e7)))  # one call of C, which no signal interrupts
        case "computing":
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                pass
    return HttpResponse(f"pid {os.getpid()}\n")


def _locked_twice(seconds):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=seconds)


async def wait(request):
    await _waits_inside(float(request.GET.get("seconds", "30")))
    return HttpResponse(f"pid {os.getpid()}\n")


async def _waits_inside(seconds):
    await asyncio.sleep(seconds)


async def pooled(request):
    """Hang in a thread of the loop's default executor."""
    await asyncio.to_thread(_locked_twice, float(request.GET.get("seconds", "30")))
    return HttpResponse("pooled\n")


@request_timeout(4)
def limited(request):
    time.sleep(float(request.GET.get("seconds", "30")))
    return HttpResponse("limited\n")


@request_timeout(4)
async def extended(request):
    assert extend_deadline(0)
    await asyncio.sleep(float(request.GET.get("seconds", "3")))
    return HttpResponse("extended\n")


DEADLOCK = threading.Lock()


def deadlock(request):
    """Hang for ever, from the second request on."""
    DEADLOCK.acquire()
    return HttpResponse("not yet\n")


async def blocked_loop(request):
    time.sleep(float(request.GET.get("seconds", "60")))  # noqa: ASYNC251 - this is the fault
    return HttpResponse("at last\n")
