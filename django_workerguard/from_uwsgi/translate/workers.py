"""Rules for the number, the class and the life of the workers. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django_workerguard.from_uwsgi.directive import Directive
from django_workerguard.from_uwsgi.translate.draft import (
    Draft,
    Outcome,
    ValueNotUnderstoodError,
    becomes,
    is_on,
    kept,
    lost,
    not_needed,
    number,
)
from django_workerguard.scoreboard.layout import MAX_SEATS

Rule = Callable[[Directive, Draft], Outcome | None]  # None: as the table says
MOST_WORKERS = MAX_SEATS // 2


def _workers(one: Directive, draft: Draft) -> Outcome:
    count = number(one.value)
    if not 1 <= count <= MOST_WORKERS:
        raise ValueNotUnderstoodError(
            f"the number of workers must be from 1 to {MOST_WORKERS}, not {one.value!r}"
        )
    draft.set("WORKERS", count)
    if one.from_cpus:
        return becomes(
            f"WORKERS = {count}, from the number of CPUs of this machine (%k); on another machine, WORKERS = auto takes "
            "the number from its CPUs and its memory"
        )
    return becomes(f"WORKERS = {count}")


def _threads(one: Directive, draft: Draft) -> Outcome:
    count = number(one.value)
    if draft.all("gevent") or draft.last("loop") == "gevent":
        return not_needed("a gevent worker serves many requests in one thread")
    if count <= 1:
        return not_needed("a sync worker serves one request at a time")
    draft.set("WORKER_CLASS", "gthread")
    draft.set("THREADS", count)
    return becomes(f"WORKER_CLASS = gthread, THREADS = {count}")


def _gevent(one: Directive, draft: Draft) -> Outcome:
    count = number(one.value)
    draft.set("WORKER_CLASS", "gevent")
    if count:
        draft.set("WORKER_CONNECTIONS", count)
    return becomes(
        f"WORKER_CLASS = gevent, WORKER_CONNECTIONS = {count or 1000}; install django-workerguard[gevent]"
    )


def _loop(one: Directive, draft: Draft) -> Outcome:
    if one.value == "gevent":
        draft.set("WORKER_CLASS", "gevent")
        return becomes("WORKER_CLASS = gevent; install django-workerguard[gevent]")
    if one.value == "simple":
        return not_needed("it is uWSGI's own loop")
    return lost(
        f"the loop {one.value!r} is not there: use gthread with THREADS, gevent, or an ASGI worker class"
    )


def _lazy(one: Directive, draft: Draft) -> Outcome:
    draft.lazy = is_on(one.value)
    return not_needed("it is the default, load=lazy" if draft.lazy else "it is off")


def _count(key: str) -> Rule:
    def rule(one: Directive, draft: Draft) -> Outcome:
        draft.set(key, number(one.value))
        return kept(f"{key} = {number(one.value)}")

    return rule


def _need_app(one: Directive, draft: Draft) -> Outcome:
    value = "server" if is_on(one.value) else "off"
    draft.set("NEED_APP", value)
    return kept(
        f"NEED_APP = {value}; the default, worker, is safer: a failed load costs one slot and is retried"
    )


def _mercy(one: Directive, draft: Draft) -> Outcome:
    if one.key != "worker-reload-mercy" and draft.all("worker-reload-mercy"):
        return not_needed("worker-reload-mercy is set, and holds for every reason for which a worker leaves")
    draft.set("WORKER_RELOAD_MERCY", number(one.value))
    text = f"WORKER_RELOAD_MERCY = {number(one.value)}"
    return kept(text) if one.key == "worker-reload-mercy" else becomes(text)


def _request_timeout(one: Directive, draft: Draft) -> Outcome:
    seconds = number(one.value)
    if one.key != "harakiri" and draft.all("harakiri"):
        return not_needed("harakiri is set, and there is no router in front of the workers")
    if not seconds:
        return not_needed("it is off")
    draft.set("REQUEST_TIMEOUT", seconds)
    return becomes(f"REQUEST_TIMEOUT = {seconds}; the successor is ready before the worker is replaced")


def _slow_request(one: Directive, draft: Draft) -> Outcome:
    milliseconds = number(one.value)
    limit = draft.last("harakiri")
    if limit and 0 < number(limit) * 1000 <= milliseconds:
        return not_needed("harakiri ends the request before that")
    draft.set("SLOW_REQUEST", f"{milliseconds}ms")
    return becomes(f"SLOW_REQUEST = {milliseconds}ms; with the stack of the request")


def _memory_error(one: Directive, draft: Draft) -> Outcome:
    if one.value.strip() == "MemoryError":
        draft.set("RELOAD_ON_MEMORY_ERROR", True)
        return becomes("RELOAD_ON_MEMORY_ERROR = True, which is the default")
    return lost(
        f"a worker is not replaced after {one.value!r}; outlier replaces a worker that fails while its peers do not"
    )


def _cheaper(one: Directive, draft: Draft) -> Outcome | None:
    if one.key == "cheaper" and not number(one.value):
        return not_needed("it is off")
    return None


RULES: Mapping[str, Rule] = {
    "processes": _workers,
    "workers": _workers,
    "threads": _threads,
    "gevent": _gevent,
    "loop": _loop,
    "lazy-apps": _lazy,
    "lazy": _lazy,
    "need-app": _need_app,
    "max-requests": _count("MAX_REQUESTS"),
    "max-requests-delta": _count("MAX_REQUESTS_DELTA"),
    "max-worker-lifetime": _count("MAX_WORKER_LIFETIME"),
    "max-worker-lifetime-delta": _count("MAX_WORKER_LIFETIME_DELTA"),
    "min-worker-lifetime": _count("MIN_WORKER_LIFETIME"),
    "reload-on-rss": _count("RELOAD_ON_RSS"),
    "evil-reload-on-rss": _count("EVIL_RELOAD_ON_RSS"),
    "worker-reload-mercy": _mercy,
    "reload-mercy": _mercy,
    "harakiri-graceful-timeout": _mercy,
    "harakiri": _request_timeout,
    "http-harakiri": _request_timeout,
    "log-slow": _slow_request,
    "reload-on-exception-type": _memory_error,
    "cheaper": _cheaper,
}
