"""Views of the dashboard: the fleet, its last hour, a slot, and the actions. Runs in the worker."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render as render_template
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_http_methods, require_safe

from django_workerguard.access import may_act, may_see, own_access, requires
from django_workerguard.conf import current_options
from django_workerguard.config.text import plain
from django_workerguard.dashboard.actions import Action, progress, refusal_of
from django_workerguard.dashboard.fragments import worst_of
from django_workerguard.dashboard.frame import OWN, POLICY, admin_index, frame_context
from django_workerguard.dashboard.slot import slot_context
from django_workerguard.dashboard.snapshots import html_cache
from django_workerguard.dashboard.static_files import ICONS, asset
from django_workerguard.report.findings import assess
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.current import CurrentWorker, current_board, current_worker

HEADERS = 16384  # bytes of a response's head, at most
POLL_TILES, POLL_PROGRESS = 5, 1  # seconds
ON_EVENTS = 30  # seconds after which the page fetches the timeline if there are new events
HOUR = 3600
# what the timeline can show, in seconds: its name, and the seconds after which the page fetches it again
WINDOWS = {HOUR: ("1 hour", 60), 600: ("10 minutes", 20), 60: ("1 minute", 5)}
FOR_EVER = "public, max-age=31536000, immutable"


@never_cache
@require_safe
@requires(may_see)
def fleet_page(request: HttpRequest) -> HttpResponse:
    """Show the fleet now, and its last hour."""
    cache = html_cache()
    if cache is None:
        return _page(request, "unguarded.html", {"title": "Not under serve_guarded"})
    window = _window(request.GET.get("window", ""))
    context = {
        **cache.state(),
        "title": "Workers",
        "tiles": cache.tiles(_url(request, "slot", 0)),
        "history": cache.history(window),
        "window": window,
        "windows": [(seconds, name, seconds == window) for seconds, (name, _) in WINDOWS.items()],
        "tiles_url": _url(request, "tiles"),
        "reload_url": _url(request, "reload"),
        "may_act": _can_act() and may_act(request),
        "poll_tiles": POLL_TILES,
        "poll_history": WINDOWS[window][1],
        "on_events": min(ON_EVENTS, WINDOWS[window][1]),
    }
    return _page(request, "fleet.html", context)


def _window(text: str) -> int:
    """Return the seconds of the timeline that a viewer wants to see."""
    return int(text) if text in map(str, WINDOWS) else HOUR


@never_cache
@require_safe
@requires(may_see)
def tiles(request: HttpRequest) -> HttpResponse:
    """Return the fleet now, as a part of the page; with ``?past=SECONDS`` also the timeline, after a comment."""
    cache = html_cache()
    if cache is None:
        return _send_whole(request, HttpResponse(""))
    past = f"<!--past-->{cache.history(_window(request.GET['past']))}" if "past" in request.GET else ""
    return _send_whole(request, HttpResponse(cache.tiles(_url(request, "slot", 0)) + past))


@never_cache
@require_safe
@requires(may_see)
def slot_page(request: HttpRequest, number: int) -> HttpResponse:
    """Show one slot: its worker, the steps of its load, its last error, its events."""
    context = {
        **slot_context(*_slot(number)),
        "title": f"Slot {number}",
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
    return _send_whole(
        request, render_template(request, "workerguard/slot_now.html", slot_context(*_slot(number)))
    )


@own_access
@require_safe
def asset_file(request: HttpRequest, name: str) -> HttpResponse:
    """Return the style sheet or the script. Any client may have them: they contain no data."""
    file = asset(name)
    if file is None:
        raise Http404(f"the dashboard has no file {name}")
    cache_control = FOR_EVER if request.GET.get("v") == file.digest else "no-cache"
    headers = {"Cache-Control": cache_control, "X-Content-Type-Options": "nosniff"}
    return _send_whole(request, HttpResponse(file.content, content_type=file.content_type, headers=headers))


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
@csrf_protect
def recycle(request: HttpRequest, number: int) -> HttpResponse:
    """Replace the worker of a slot, after a confirmation."""
    board = _worker().board
    _, slot, shot = _slot(number)
    server = board.words[Header.STARTED_AT]
    action = Action("recycle", board.words[Header.EVENTS], number, slot["pid"] or 0, server)
    title = f"Replace the worker of slot {number} (pid {slot['pid']})"
    how = "Its successor loads first. When it is ready, the worker finishes its requests and leaves."
    return _act(request, board, shot, action, title=title, how=how)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@requires(may_act)
@csrf_protect
def reload(request: HttpRequest) -> HttpResponse:
    """Reload settings and code, after a confirmation."""
    board = _worker().board
    shot = snapshot(board)
    how = (
        f"New workers load the present settings and code, and replace the {shot['ready']} that are ready, one by one. "
        "If the first one cannot load, nothing changes."
    )
    action = Action("reload", board.words[Header.EVENTS], server=board.words[Header.STARTED_AT])
    return _act(request, board, shot, action, title="Reload the server", how=how)


def _act(
    request: HttpRequest, board: Board, shot: Mapping[str, Any], action: Action, *, title: str, how: str
) -> HttpResponse:
    """Send the action to the arbiter if this is the confirmation, else ask for the confirmation."""
    refusal = ""
    if request.method == "POST":
        refusal = refusal_of(board, action, _name(request))
        if not refusal:
            return HttpResponseRedirect(f"{_url(request, 'progress')}?{action.query}")
    context = {
        "title": title,
        "how": how,
        "refusal": refusal,
        "worst": worst_of(assess(shot)),
        "server": plain(f"{shot['name']} on {shot['host']}"),
        "workers": f"{shot['ready']} of {shot['target']} ready, generation {shot['arbiter']['generation']}",
    }
    return _page(request, "confirm.html", context, status=409 if refusal else 200)


@never_cache
@require_safe
@requires(may_see)
def progress_page(request: HttpRequest) -> HttpResponse:
    """Show how an action goes on, until its outcome."""
    board, action = _board(), _action(request)
    title = "Reload" if action.do == "reload" else f"Replacement of the worker of slot {action.slot}"
    context = {
        "title": title,
        "worst": worst_of(assess(snapshot(board))),
        "progress": progress(board, action),
        "now_url": f"{_url(request, 'progress-now')}?{action.query}",
        "again": f"?{action.query}",
        "poll_progress": POLL_PROGRESS,
    }
    return _page(request, "progress.html", context)


@never_cache
@require_safe
@requires(may_see)
def progress_now(request: HttpRequest) -> HttpResponse:
    """Return how an action goes on, as a part of its page."""
    return _send_whole(request, HttpResponse(progress(_board(), _action(request))))


def _action(request: HttpRequest) -> Action:
    action = Action.of(request.GET)
    if action is None:
        raise Http404("the address names no action")
    return action


def _name(request: HttpRequest) -> str:
    user = getattr(request, "user", None)
    return (
        str(user.get_username())
        if getattr(user, "is_authenticated", False) and user is not None
        else "somebody"
    )


def _worker() -> CurrentWorker:
    worker = current_worker()
    if worker is None:
        raise Http404("this process is not a worker of serve_guarded")
    return worker


def _can_act() -> bool:
    """Return whether the server takes requests of the dashboard; uWSGI does not."""
    return current_worker() is not None


def _board() -> Board:
    board = current_board()
    if board is None:
        raise Http404("this process belongs to no guarded server")
    return board


def _slot(number: int) -> tuple[Board, dict[str, Any], dict[str, Any]]:
    board = _board()
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
    frame = frame_context(request)
    icon = f"{context.get('worst', 'old')}.svg"
    context = {
        **frame,
        "as_of": f"{datetime.now(UTC):%H:%M:%S}",
        "css_url": _asset_url(request, "dashboard.css"),
        "js_url": _asset_url(request, "dashboard.js"),
        "icon_url": _asset_url(request, icon),
        "icons": {name.removesuffix(".svg"): _asset_url(request, name) for name in ICONS},
        "fleet_url": _url(request, "fleet"),
        "admin_url": admin_index(),
        "monitor": current_options().monitor_bind,
        **context,
    }
    response = render_template(request, f"workerguard/{template}", context, status=status)
    if frame is OWN:
        response.headers.setdefault("Content-Security-Policy", POLICY)
    return _send_whole(request, response)


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
