"""Views of the dashboard: the fleet, its last hour, a slot, and the actions. Runs in the worker."""

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
from django_workerguard.config.text import in_megabytes
from django_workerguard.dashboard.fragments import event_list, requests_of_slot
from django_workerguard.dashboard.snapshots import events_of, html_cache
from django_workerguard.dashboard.static_files import asset
from django_workerguard.dashboard.svg import waterfall
from django_workerguard.report.findings import assess
from django_workerguard.report.tables import quantiles, span
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.control_client import ask
from django_workerguard.scoreboard.in_hand import requests_of_servers
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.current import CurrentWorker, current_board, current_worker

EVENTS = 30  # shown for a slot
HEADERS = 16384  # bytes of a response's head, at most
POLL_TILES, POLL_HISTORY = 5, 60  # seconds
ON_EVENTS = 30  # seconds after which the page fetches the history if there are new events
FOR_EVER = "public, max-age=31536000, immutable"
ASKED = re.compile(r"recycle-(?P<slot>\d{1,4})|reload")


@never_cache
@require_safe
@requires(may_see)
def fleet_page(request: HttpRequest) -> HttpResponse:
    """Show the fleet now, and its last hour."""
    cache = html_cache()
    if cache is None:
        return _page(request, "unguarded.html", {"title": "Not under serve_guarded"})
    context = {
        "title": "Workers",
        "tiles": cache.tiles(_url(request, "slot", 0)),
        "summary": cache.summary(),
        "confirmation": _confirmation(request),
        "history": cache.history(),
        "tiles_url": _url(request, "tiles"),
        "reload_url": _url(request, "reload"),
        "may_act": _can_act() and may_act(request),
        "poll_tiles": POLL_TILES,
        "poll_history": POLL_HISTORY,
        "on_events": ON_EVENTS,
    }
    return _page(request, "fleet.html", context)


@never_cache
@require_safe
@requires(may_see)
def tiles(request: HttpRequest) -> HttpResponse:
    """Return the fleet now, as a part of the page; with ``?hour`` also its last hour, after a comment."""
    cache = html_cache()
    if cache is None:
        return _send_whole(request, HttpResponse(""))
    past = f"<!--hour-->{cache.history()}" if "hour" in request.GET else ""
    return _send_whole(request, HttpResponse(cache.tiles(_url(request, "slot", 0)) + past))


@never_cache
@require_safe
@requires(may_see)
def slot_page(request: HttpRequest, number: int) -> HttpResponse:
    """Show one slot: its worker, the steps of its load, its last error, its events."""
    context = {
        **_of_slot(number),
        "title": f"Slot {number}",
        "fleet_url": _url(request, "fleet"),
        "now_url": _url(request, "slot-now", number),
        "poll_slot": POLL_TILES,
        "recycle_url": _url(request, "recycle", number),
        "may_act": _can_act() and may_act(request),
    }
    return _page(request, "slot.html", context)


@never_cache
@require_safe
@requires(may_see)
def slot_now(request: HttpRequest, number: int) -> HttpResponse:
    """Return the slot now, as a part of its page."""
    return _send_whole(request, render_template(request, "workerguard/slot_now.html", _of_slot(number)))


def _of_slot(number: int) -> dict[str, Any]:
    board, slot, shot = _slot(number)
    since = f" for {span(shot['at'] - slot['since'])}" if slot["since"] else ""
    failed = slot["last_error"] or {}
    return {
        "slot": slot,
        "state": slot["state"].replace("_", "-"),
        "since": since,
        "latency": quantiles(slot["latency"]) if slot["latency"] else "",
        "memory": in_megabytes(slot["rss_bytes"]) if slot["rss_bytes"] else "–",
        "served": requests_of_slot(requests_of_servers([board]), number),
        "findings": [finding for finding in assess(shot) if finding.slot == number],
        "waterfall": waterfall(slot["load_steps"]),
        "failed_waterfall": waterfall(failed.get("steps") or []),
        "events": event_list(events_of(board, number, at_most=EVENTS)),
    }


@require_safe
def asset_file(request: HttpRequest, name: str) -> HttpResponse:
    """Return the style sheet or the script. Any client may have them: they contain no data."""
    file = asset(name)
    if file is None:
        raise Http404(f"the dashboard has no file {name}")
    cache_control = FOR_EVER if request.GET.get("v") == file.digest else "no-cache"
    headers = {"Cache-Control": cache_control, "X-Content-Type-Options": "nosniff"}
    return _send_whole(request, HttpResponse(file.content, content_type=file.content_type, headers=headers))


asset_file.login_required = False  # type: ignore[attr-defined] # read by LoginRequiredMiddleware


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
@csrf_protect
def recycle(request: HttpRequest, number: int) -> HttpResponse:
    """Replace the worker of a slot, after a confirmation."""
    worker = _worker()
    _, slot, _ = _slot(number)
    title = f"Replace the worker of slot {number} (pid {slot['pid']})"
    how = "Its successor loads first. When it is ready, the worker finishes its requests and leaves."
    return _act(request, worker, title, how, do="recycle", arguments={"slot": number})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
@csrf_protect
def reload(request: HttpRequest) -> HttpResponse:
    """Reload settings and code, after a confirmation."""
    how = "New workers load the present settings and code, one by one. If the first one cannot load, nothing changes."
    return _act(request, _worker(), "Reload the server", how, do="reload", arguments={})


def _act(
    request: HttpRequest,
    worker: CurrentWorker,
    title: str,
    how: str,
    *,
    do: str,
    arguments: Mapping[str, Any],
) -> HttpResponse:
    """Send the request to the arbiter if this is the confirmation, else ask for the confirmation."""
    refusal = ""
    if request.method == "POST":
        refusal = _refusal(worker, do, {**arguments, "user": _name(request)})
        if not refusal:
            action = "-".join(map(str, (do, *arguments.values())))
            return HttpResponseRedirect(f"{_url(request, 'fleet')}?asked={action}")
    context = {"title": title, "how": how, "refusal": refusal, "fleet_url": _url(request, "fleet")}
    return _page(request, "confirm.html", context, status=409 if refusal else 200)


def _confirmation(request: HttpRequest) -> str:
    """Return the message about the action that the viewer has just confirmed; "" if there is none."""
    match = ASKED.fullmatch(request.GET.get("asked", ""))
    if match is None:
        return ""
    if match["slot"] is None:
        return "The reload was accepted: the first new worker is loading. This page shows the progress."
    return f"Accepted: the worker of slot {int(match['slot'])} leaves as soon as its successor is ready."


def _refusal(worker: CurrentWorker, do: str, arguments: Mapping[str, Any]) -> str:
    """Send a request to the arbiter. Return the reason if it refused, else ""."""
    if worker.board.path is None:
        return "the server has no run directory, so it cannot receive requests"
    try:
        response = ask(worker.board.path.with_suffix(".sock"), do, **arguments)
    except OSError as error:
        return f"the arbiter did not answer: {error.strerror or error}"
    return "" if response.get("accepted") else str(response.get("reason"))


def _name(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    return str(user.get_username()) if user is not None and user.is_authenticated else "somebody"


def _worker() -> CurrentWorker:
    worker = current_worker()
    if worker is None:
        raise Http404("this process is not a worker of serve_guarded")
    return worker


def _can_act() -> bool:
    """Return whether the server takes requests of the dashboard; uWSGI does not."""
    return current_worker() is not None


def _slot(number: int) -> tuple[Board, dict[str, Any], dict[str, Any]]:
    board = current_board()
    if board is None:
        raise Http404("this process belongs to no guarded server")
    shot = snapshot(board)
    slot = next((slot for slot in shot["slots"] if slot["slot"] == number), None)
    if slot is None:
        raise Http404(f"there is no slot {number}")
    return board, slot, shot


def _url(request: HttpRequest, name: str, *arguments: Any) -> str:
    """Return a URL of the dashboard, in the namespace that the project gave it."""
    match = request.resolver_match
    namespace = match.namespace if match is not None else ""
    return reverse(f"{namespace}:{name}" if namespace else name, args=arguments)


def _page(request: HttpRequest, template: str, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    admin_context = _admin_context(request)
    context = {
        **(admin_context or {}),
        "as_of": f"{datetime.now(UTC):%H:%M:%S}",
        "base": "admin/base_site.html" if admin_context is not None else "workerguard/base.html",
        "css_url": _asset_url(request, "dashboard.css"),
        "js_url": _asset_url(request, "dashboard.js"),
        **context,
    }
    return _send_whole(request, render_template(request, f"workerguard/{template}", context, status=status))


def _asset_url(request: HttpRequest, name: str) -> str:
    file = asset(name)
    return f"{_url(request, 'asset', name)}?v={file.digest if file is not None else ''}"


def _send_whole(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Let the kernel take the whole response at once, so that a client that does not read holds no sync worker.

    It also forbids other sites to show the response in a frame, where they could steal a click.
    """
    response.headers.setdefault("X-Frame-Options", "DENY")
    connection = request.META.get("gunicorn.socket")
    if connection is not None:
        needed = len(response.content) + HEADERS
        with contextlib.suppress(OSError):
            # the kernel reports twice the size that was set; a larger buffer is kept for later responses
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * needed:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, needed)
    return response


def _admin_context(request: HttpRequest) -> dict[str, Any] | None:
    """Return the context of the admin's own pages; None if there is no admin."""
    if not apps.is_installed("django.contrib.admin") or not hasattr(request, "user"):
        return None
    from django.contrib import admin  # imported late: it can only be imported if it is installed

    try:
        each_context: Callable[[HttpRequest], dict[str, Any]] = admin.site.each_context
        return {**each_context(request), "is_nav_sidebar_enabled": False}
    except NoReverseMatch:
        return None
