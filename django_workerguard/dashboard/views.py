"""The dashboard: the fleet, its last hour, a slot, and what can be done to them. Runs in the worker."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from typing import Any

from django.apps import apps
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from django_workerguard.current import CurrentWorker, current_worker
from django_workerguard.dashboard.access import for_those, may_act, may_see
from django_workerguard.dashboard.looking import events_of, looks
from django_workerguard.dashboard.render import happened, waterfall
from django_workerguard.report.table import span
from django_workerguard.scoreboard.asking import ask

EVENTS = 30  # of a slot
HEADERS = 16384  # bytes that a server puts before an answer, at most
POLL_TILES, POLL_HISTORY = 5, 60  # seconds; the history also when something has happened


@never_cache
@require_safe
@for_those(may_see)
def fleet_page(request: HttpRequest) -> HttpResponse:
    """Show the fleet now, and its last hour."""
    found = looks()
    if found is None:
        return _page(request, "unguarded.html", {"title": "Not under serve_guarded"})
    context = {
        "title": "Workers",
        "tiles": found.tiles(_url(request, "slot", 0)),
        "history": found.history(),
        "tiles_url": _url(request, "tiles"),
        "history_url": _url(request, "timeline"),
        "reload_url": _url(request, "reload"),
        "may_act": may_act(request),
        "poll_tiles": POLL_TILES,
        "poll_history": POLL_HISTORY,
    }
    return _page(request, "fleet.html", context)


@never_cache
@require_safe
@for_those(may_see)
def tiles(request: HttpRequest) -> HttpResponse:
    """Answer the fleet as it is now, to be put into the page."""
    found = looks()
    return _let_go(request, HttpResponse(found.tiles(_url(request, "slot", 0)) if found else ""))


@never_cache
@require_safe
@for_those(may_see)
def timeline(request: HttpRequest) -> HttpResponse:
    """Answer the last hour, to be put into the page."""
    found = looks()
    return _let_go(request, HttpResponse(found.history() if found else ""))


@never_cache
@require_safe
@for_those(may_see)
def slot_page(request: HttpRequest, number: int) -> HttpResponse:
    """Show one slot: its worker, its load's steps, its last error, what happened in it."""
    worker, slot, shot = _slot(number)
    since = f"for {span(shot['at'] - slot['since'])}" if slot["since"] else ""
    context = {
        "title": f"Slot {number}: {slot['state'].replace('_', '-')} {since}",
        "slot": slot,
        "waterfall": waterfall(slot["load_steps"]),
        "happened": happened(events_of(worker, number, at_most=EVENTS)),
        "fleet_url": _url(request, "fleet"),
        "recycle_url": _url(request, "recycle", number),
        "may_act": may_act(request),
    }
    return _page(request, "slot.html", context)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@for_those(may_act)
@csrf_protect
def recycle(request: HttpRequest, number: int) -> HttpResponse:
    """Ask whether a slot's worker is to be replaced, and have it replaced."""
    worker, slot, _ = _slot(number)
    what = f"Replace the worker of slot {number} (pid {slot['pid']})"
    how = "Its successor is loaded and ready first; requests under way are finished."
    return _confirmed(request, worker, what, how, do="recycle", arguments={"slot": number})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@for_those(may_act)
@csrf_protect
def reload(request: HttpRequest) -> HttpResponse:
    """Ask whether settings and code are to be read anew, and have it done."""
    how = "New workers load the settings and the code as they are now, one by one. If the first cannot, nothing changes."
    return _confirmed(request, _worker(), "Reload the server", how, do="reload", arguments={})


def _confirmed(
    request: HttpRequest,
    worker: CurrentWorker,
    what: str,
    how: str,
    *,
    do: str,
    arguments: Mapping[str, Any],
) -> HttpResponse:
    """Do it if this is the confirmation, else ask for it."""
    refused = ""
    if request.method == "POST":
        refused = _refused(worker, do, {**arguments, "user": _name(request)})
        if not refused:
            return HttpResponseRedirect(_url(request, "fleet"))
    context = {"title": what, "how": how, "refused": refused, "fleet_url": _url(request, "fleet")}
    return _page(request, "confirm.html", context, status=409 if refused else 200)


def _refused(worker: CurrentWorker, do: str, arguments: Mapping[str, Any]) -> str:
    """Ask the arbiter; return why it refused, "" where it did not."""
    if worker.board.path is None:
        return "the server has no run directory, so that it cannot be reached"
    try:
        answer = ask(worker.board.path.with_suffix(".sock"), do, **arguments)
    except OSError as error:
        return f"the arbiter did not answer: {error.strerror or error}"
    return "" if answer.get("accepted") else str(answer.get("reason"))


def _name(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    return str(user.get_username()) if user is not None and user.is_authenticated else "somebody"


def _worker() -> CurrentWorker:
    worker = current_worker()
    if worker is None:
        raise Http404("this process is no worker of serve_guarded")
    return worker


def _slot(number: int) -> tuple[CurrentWorker, dict[str, Any], dict[str, Any]]:
    worker = _worker()
    shot = worker.snapshot()
    slot = next((slot for slot in shot["slots"] if slot["slot"] == number), None)
    if slot is None:
        raise Http404(f"there is no slot {number}")
    return worker, slot, shot


def _url(request: HttpRequest, name: str, *arguments: Any) -> str:
    """Return an address of the dashboard, under whatever namespace the project gave it."""
    match = request.resolver_match
    namespace = match.namespace if match is not None else ""
    return reverse(f"{namespace}:{name}" if namespace else name, args=arguments)


def _page(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    look = _admin_look(request)
    context = {
        **(look or {}),
        "base": "admin/base_site.html" if look is not None else "workerguard/base.html",
        **context,
    }
    return _let_go(request, render_template(request, f"workerguard/{template}", context, status=status))


def _let_go(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Have the kernel take the whole answer at once: a viewer who does not read it must not hold a sync worker."""
    connection = request.META.get("gunicorn.socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(response.content) + HEADERS)
    return response


def _admin_look(request: HttpRequest) -> dict[str, Any] | None:
    """Return what the admin's own pages are given; None where there is no admin to look like."""
    if not apps.is_installed("django.contrib.admin") or not hasattr(request, "user"):
        return None
    from django.contrib import admin  # late: it may only be imported where it is installed

    try:
        each_context: Callable[[HttpRequest], dict[str, Any]] = admin.site.each_context
        return {**each_context(request), "is_nav_sidebar_enabled": False}
    except NoReverseMatch:
        return None
