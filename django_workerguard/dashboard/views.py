"""The dashboard: the fleet, its last hour, a slot, and what can be done to them. Runs in the worker."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.apps import apps
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import NoReverseMatch, reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from django_workerguard.access import may_act, may_see, requires
from django_workerguard.config.text import megabytes
from django_workerguard.dashboard.assets import asset
from django_workerguard.dashboard.fragments import happened
from django_workerguard.dashboard.snapshots import events_of, looks
from django_workerguard.dashboard.svg import waterfall
from django_workerguard.report.findings import assess
from django_workerguard.report.tables import span
from django_workerguard.scoreboard.control_client import ask
from django_workerguard.worker.current import CurrentWorker, current_worker

EVENTS = 30  # of a slot
HEADERS = 16384  # bytes that a server puts before an answer, at most
POLL_TILES, POLL_HISTORY = 5, 60  # seconds
ON_EVENTS = 30  # seconds after which the history is asked for when something has happened
FOR_EVER = "public, max-age=31536000, immutable"
ASKED = re.compile(r"recycle-(?P<slot>\d{1,4})|reload")


@never_cache
@require_safe
@requires(may_see)
def fleet_page(request: HttpRequest) -> HttpResponse:
    """Show the fleet now, and its last hour."""
    found = looks()
    if found is None:
        return _page(request, "unguarded.html", {"title": "Not under serve_guarded"})
    context = {
        "title": "Workers",
        "tiles": found.tiles(_url(request, "slot", 0)),
        "said": found.said(),
        "asked": _asked_for(request),
        "history": found.history(),
        "tiles_url": _url(request, "tiles"),
        "reload_url": _url(request, "reload"),
        "may_act": may_act(request),
        "poll_tiles": POLL_TILES,
        "poll_history": POLL_HISTORY,
        "on_events": ON_EVENTS,
    }
    return _page(request, "fleet.html", context)


@never_cache
@require_safe
@requires(may_see)
def tiles(request: HttpRequest) -> HttpResponse:
    """Answer the fleet as it is now, to be put into the page; with ``?hour``, behind a comment, its last hour too."""
    found = looks()
    if found is None:
        return _let_go(request, HttpResponse(""))
    past = f"<!--hour-->{found.history()}" if "hour" in request.GET else ""
    return _let_go(request, HttpResponse(found.tiles(_url(request, "slot", 0)) + past))


@never_cache
@require_safe
@requires(may_see)
def slot_page(request: HttpRequest, number: int) -> HttpResponse:
    """Show one slot: its worker, its load's steps, its last error, what happened in it."""
    context = {
        **_of_slot(number),
        "title": f"Slot {number}",
        "fleet_url": _url(request, "fleet"),
        "now_url": _url(request, "slot-now", number),
        "poll_slot": POLL_TILES,
        "recycle_url": _url(request, "recycle", number),
        "may_act": may_act(request),
    }
    return _page(request, "slot.html", context)


@never_cache
@require_safe
@requires(may_see)
def slot_now(request: HttpRequest, number: int) -> HttpResponse:
    """Answer what is to be seen of a slot now, to be put into its page."""
    return _let_go(request, render_template(request, "workerguard/slot_now.html", _of_slot(number)))


def _of_slot(number: int) -> dict[str, Any]:
    worker, slot, shot = _slot(number)
    since = f" for {span(shot['at'] - slot['since'])}" if slot["since"] else ""
    failed = slot["last_error"] or {}
    return {
        "slot": slot,
        "state": slot["state"].replace("_", "-"),
        "since": since,
        "memory": megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "–",
        "findings": [finding for finding in assess(shot) if finding.slot == number],
        "waterfall": waterfall(slot["load_steps"]),
        "failed_waterfall": waterfall(failed.get("steps") or []),
        "happened": happened(events_of(worker, number, at_most=EVENTS)),
    }


@require_safe
def asset_file(request: HttpRequest, name: str) -> HttpResponse:
    """Answer the style sheet or the script, to anybody: they tell nothing."""
    found = asset(name)
    if found is None:
        raise Http404(f"the dashboard has no file {name}")
    kept = FOR_EVER if request.GET.get("v") == found.word else "no-cache"
    headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
    return _let_go(request, HttpResponse(found.content, content_type=found.content_type, headers=headers))


asset_file.login_required = False  # type: ignore[attr-defined] # LoginRequiredMiddleware asks for it


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
@csrf_protect
def recycle(request: HttpRequest, number: int) -> HttpResponse:
    """Ask whether a slot's worker is to be replaced, and have it replaced."""
    worker, slot, _ = _slot(number)
    what = f"Replace the worker of slot {number} (pid {slot['pid']})"
    how = "Its successor is loaded and ready first; requests under way are finished."
    return _confirmed(request, worker, what, how, do="recycle", arguments={"slot": number})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
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
            asked = "-".join(map(str, (do, *arguments.values())))
            return HttpResponseRedirect(f"{_url(request, 'fleet')}?asked={asked}")
    context = {"title": what, "how": how, "refused": refused, "fleet_url": _url(request, "fleet")}
    return _page(request, "confirm.html", context, status=409 if refused else 200)


def _asked_for(request: HttpRequest) -> str:
    """Say what the viewer has just asked for; "" where it is nothing."""
    match = ASKED.fullmatch(request.GET.get("asked", ""))
    if match is None:
        return ""
    if match["slot"] is None:
        return "The reload was accepted: the first new worker loads. What becomes of it is shown here."
    return f"Accepted: the worker of slot {int(match['slot'])} leaves as soon as its successor is ready."


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
        "as_of": f"{datetime.now(UTC):%H:%M:%S}",
        "base": "admin/base_site.html" if look is not None else "workerguard/base.html",
        "css_url": _asset_url(request, "dashboard.css"),
        "js_url": _asset_url(request, "dashboard.js"),
        **context,
    }
    return _let_go(request, render_template(request, f"workerguard/{template}", context, status=status))


def _asset_url(request: HttpRequest, name: str) -> str:
    found = asset(name)
    return f"{_url(request, 'asset', name)}?v={found.word if found is not None else ''}"


def _let_go(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Have the kernel take the whole answer at once: a viewer who does not read it must not hold a sync worker.

    And let nobody show it in a frame of theirs, where a click could be stolen.
    """
    response.headers.setdefault("X-Frame-Options", "DENY")
    connection = request.META.get("gunicorn.socket")
    if connection is not None:
        needed = len(response.content) + HEADERS
        with contextlib.suppress(OSError):
            # the kernel answers twice of what was set; a larger buffer is left to the connection's other answers
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * needed:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, needed)
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
