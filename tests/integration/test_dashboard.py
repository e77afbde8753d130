"""Who may see the dashboard, and what it answers without a browser."""

from __future__ import annotations

import json
import re
import socket
from array import array
from dataclasses import replace

import pytest
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.http import HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import resolve

from django_workerguard import access
from django_workerguard.config.options import GuardOptions
from django_workerguard.dashboard import snapshots, static_files, views
from django_workerguard.dashboard.actions import Action
from django_workerguard.dashboard.snapshots import KEPT, HtmlCache
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.report.findings import assess
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import read_events, write_event
from django_workerguard.scoreboard.layout import Layout, Sample, Seat, SeatKind, SeatState, Slot, SlotState
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker import current
from django_workerguard.worker.current import CurrentWorker
from django_workerguard.worker.register import ENTRY_MASK, Register

PAGES = (
    *("", "?window=600", "?window=x", "tiles/", "tiles/?past=60", "slot/1/", "slot/1/now/"),
    *("progress/?do=reload", "progress/now/?do=reload"),
)
ACTIONS = ("slot/1/recycle/", "reload/")


@pytest.fixture
def worker():
    """A guarded worker on a board that the test can write, which no arbiter listens beside."""
    board = Board.create(Layout(seats=1, slots=2), None)
    board.words[Header.BEAT] = monotonic_ns()
    for word, value in ((Header.TARGET, 1), (Header.READY, 1), (Header.QUORUM, 1), (Header.PHASE, 1)):
        board.words[word] = value
    board.words[board.layout.seat(0) + Seat.STATE] = SeatState.READY
    board.words[board.layout.seat(0) + Seat.PID] = 4321
    board.words[board.layout.slot(1) + Slot.SEAT] = 1
    board.words[board.layout.slot(1) + Slot.STATE] = SlotState.READY
    worker = CurrentWorker(slot=1, pid=4321, generation=1, seat=0, board=board)
    current.set_current_worker(worker)
    yield worker
    current.set_current_worker(None)
    board.close()


def user(name, **rights):
    return User.objects.create_user(name, password="secret", **rights)


def client_of(one):
    client = Client()
    client.force_login(one)
    return client


@pytest.mark.django_db
@pytest.mark.parametrize("page", PAGES)
def test_staff_see_it_and_nobody_else(worker, page):
    address = f"/guard/{page}"
    assert client_of(user("clerk", is_staff=True)).get(address).status_code == 200
    for refused in (client_of(user("reader")), client_of(user("gone", is_staff=True, is_active=False))):
        response = refused.get(address)
        assert response.status_code in (302, 403)
        assert b"4321" not in response.content
    response = Client().get(address)
    assert response.status_code == 302
    assert response["Location"].startswith("/admin/login/?next=%2Fguard%2F")


@pytest.mark.django_db
@pytest.mark.parametrize("action", ACTIONS)
def test_only_who_may_operate_may_act(worker, action):
    address = f"/guard/{action}"
    clerk = user("clerk", is_staff=True)
    assert client_of(clerk).get(address).status_code == 403
    assert client_of(clerk).post(address).status_code == 403
    assert client_of(user("reader")).post(address).status_code == 403
    assert Client().post(address).status_code == 403
    assert client_of(User.objects.create_superuser("root")).get(address).status_code == 200
    content_type = ContentType.objects.create(app_label="workerguard", model="server")
    clerk.user_permissions.add(Permission.objects.create(codename="operate", content_type=content_type))
    assert client_of(clerk).get(address).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("action", ACTIONS)
def test_an_action_wants_the_token_against_forgery(worker, action):
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    assert client.post(f"/guard/{action}").status_code == 403


@pytest.mark.django_db
def test_what_cannot_be_done_is_said(worker):
    response = client_of(User.objects.create_superuser("root")).post("/guard/reload/")
    assert response.status_code == 409
    assert "no run directory" in response.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["post", "put", "delete"])
@pytest.mark.parametrize("page", PAGES)
def test_pages_are_only_read(worker, page, method):
    client = client_of(User.objects.create_superuser("root"))
    assert getattr(client, method)(f"/guard/{page}").status_code == 405


@pytest.mark.django_db
@pytest.mark.parametrize("number", [0, 2, 99, 10**30])
def test_a_slot_that_is_not_there(worker, number):
    client = client_of(User.objects.create_superuser("root"))
    for page in ("", "recycle/"):
        assert client.get(f"/guard/slot/{number}/{page}").status_code == 404


def anybody(request):
    return True


def nobody(request):
    return None


@pytest.mark.parametrize(
    ("access", "actions", "seen", "acted"),
    [
        ("anybody", "nobody", 200, 403),
        ("anybody", "anybody", 200, 200),
        ("nobody", "anybody", 403, 403),
    ],
)
@override_settings(
    INSTALLED_APPS=["django_workerguard"],
    MIDDLEWARE=[],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
def test_callables_of_the_users_choice_without_auth_admin_or_database(worker, access, actions, seen, acted):
    options = GuardOptions(dashboard_access=f"{__name__}:{access}", dashboard_actions=f"{__name__}:{actions}")
    current.set_current_worker(
        CurrentWorker(slot=1, pid=4321, generation=1, seat=0, board=worker.board, options=options)
    )
    assert Client().get("/guard/").status_code == seen
    assert Client().get("/guard/reload/").status_code == acted


@override_settings(INSTALLED_APPS=["django_workerguard"], MIDDLEWARE=[])
def test_without_auth_and_without_a_callable_nobody_sees_it(worker):
    assert Client().get("/guard/").status_code == 403


@pytest.mark.django_db
def test_under_another_server_it_says_so():
    client = client_of(User.objects.create_superuser("root"))
    assert "serve_guarded" in client.get("/guard/").content.decode()
    assert client.get("/guard/tiles/").content == b""
    assert client.get("/guard/slot/1/").status_code == 404
    assert client.post("/guard/reload/").status_code == 404


@pytest.mark.django_db
def test_a_traceback_is_shown_as_text(worker):
    error = {
        "type": "<b>E</b>",
        "message": "</pre><script>",
        "traceback": "<script>alert(1)</script>\x1b[2J",
        "at": 1.0,
    }
    worker.board.write_last_error(1, error)
    shown = client_of(User.objects.create_superuser("root")).get("/guard/slot/1/").content.decode()
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert "&lt;b&gt;E" in shown


@pytest.mark.django_db
@pytest.mark.parametrize(
    "scribble", [b"\xff" * 64, b"{", b"[]", json.dumps({"error": 3, "steps": 5}).encode()]
)
def test_a_board_that_was_scribbled_over_is_no_crash(worker, scribble):
    board = worker.board
    for offset in (board.seat_text(0), board.slot_text(1), board.layout.about, board.layout.tallies):
        board.write_text(offset, 64, scribble)
    for word in range(board.layout.slot(1), board.layout.slot(1) + Slot.WORDS):
        if word not in (board.layout.slot(1) + Slot.SEAT, board.layout.slot(1) + Slot.SUCCESSOR):
            board.words[word] = 2**64 - 1
    board.words[Header.SAMPLES] = board.words[Header.EVENTS] = 2**64 - 1
    client = client_of(User.objects.create_superuser("root"))
    for page in PAGES:
        assert client.get(f"/guard/{page}").status_code == 200


def test_style_and_script_are_the_dashboards_own_and_may_be_kept(worker):
    looks_like = views._asset_url(resolved("/guard/"), "dashboard.css")
    assert re.fullmatch(r"/guard/assets/dashboard\.css\?v=[0-9a-f]{12}", looks_like)
    for name, kind in (("dashboard.css", "text/css"), ("dashboard.js", "text/javascript")):
        answer = Client().get(views._asset_url(resolved("/guard/"), name))
        assert (answer.status_code, answer["Content-Type"].partition(";")[0]) == (200, kind)
        assert "immutable" in answer["Cache-Control"]
        assert answer["X-Content-Type-Options"] == "nosniff"
        assert Client().get(f"/guard/assets/{name}?v=old")["Cache-Control"] == "no-cache"
    assert Client().get("/guard/assets/views.py").status_code == 404
    assert Client().get("/guard/assets/..%2Fviews.py").status_code == 404


def resolved(path):
    request = RequestFactory().get(path)
    request.resolver_match = resolve(path)
    return request


@pytest.mark.django_db
def test_nobody_shows_it_in_a_frame(worker):
    client = client_of(User.objects.create_superuser("root"))
    for page in (*PAGES, *ACTIONS):
        assert client.get(f"/guard/{page}")["X-Frame-Options"] == "DENY"


@pytest.mark.django_db
@override_settings(USE_THOUSAND_SEPARATOR=True, LANGUAGE_CODE="de")
def test_a_pid_is_no_amount(worker):
    shown = client_of(User.objects.create_superuser("root")).get("/guard/slot/1/").content.decode()
    assert "<dd>4321</dd>" in shown
    assert 'lang="en"' in shown


@pytest.mark.django_db
def test_a_reload_is_followed_to_the_verdict_of_the_command(worker):
    client = client_of(user("clerk", is_staff=True))
    steps = [
        ({"event": "asked", "do": "reload"}, "reload: accepted, and in progress.", False),
        ({"event": "reload", "generation": 2, "by": "root on the dashboard"}, "in progress", False),
        (
            {"event": "spawned", "slot": 1, "pid": 99, "generation": 2},
            "Slot 1: worker (pid 99) was started",
            False,
        ),
        ({"event": "reloaded", "generation": 2}, "reload: done.", True),
        ({"event": "spawned", "slot": 1, "pid": 100, "generation": 2}, "reload: done.", True),
    ]
    for event, said, over in steps:
        write_event(worker.board, {"at": 1, **event})
        for page in ("progress/", "progress/now/"):
            shown = client.get(f"/guard/{page}?do=reload&after=0").text
            assert said in shown
            assert ("data-wg-over" in shown) is over
    assert "pid 100" not in shown, "what comes after the verdict is not of this reload"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("query", "events", "said"),
    [
        (
            "do=reload",
            [{"event": "reload-refused", "reason": "bad <settings>"}],
            "Error: the reload was refused and nothing has changed: bad &lt;settings&gt;",
        ),
        (
            "do=reload",
            [
                {"event": "reload", "generation": 2},
                {
                    "event": "load-failed",
                    "slot": 1,
                    "generation": 2,
                    "type": "E",
                    "message": "m",
                    "step": "app",
                },
            ],
            "Error: slot 1: the load failed in step app: E: m",
        ),
        ("do=recycle&slot=1&pid=4321", [{"event": "exited", "slot": 1, "pid": 4321}], "recycle: accepted"),
        (
            "do=recycle&slot=1&pid=4321",
            [{"event": "ready", "slot": 1, "pid": 4322}, {"event": "exited", "slot": 1, "pid": 4321}],
            "recycle: done.",
        ),
        (
            "do=recycle&slot=1&pid=4321",
            [{"event": "spawn-failed", "slot": 1, "reason": "no memory"}],
            "Error: slot 1: no memory",
        ),
        ("do=recycle&slot=1&pid=4321", [{"event": "exited", "slot": 2, "pid": 7}], "recycle: accepted"),
    ],
)
def test_the_verdict_of_an_action(worker, query, events, said):
    for event in events:
        write_event(worker.board, {"at": 1, **event})
    assert said in client_of(user("clerk", is_staff=True)).get(f"/guard/progress/now/?{query}").text


@pytest.mark.django_db
def test_the_icon_of_an_action_is_that_of_the_servers_state(worker):
    client = client_of(user("root", is_staff=True, is_superuser=True))
    worker.board.words[worker.board.layout.slot(1) + Slot.STATE] = SlotState.EMPTY
    worker.board.words[Header.READY] = 0
    worst = assess(snapshot(worker.board))[0].severity
    assert worst == "warning"
    for page in ("progress/?do=reload", "reload/"):
        text = client.get(f"/guard/{page}").text
        assert f'href="/guard/assets/{worst}.svg' in text, page
    assert f'data-wg-worst="{worst}"' in client.get("/guard/progress/now/?do=reload").text


@pytest.mark.django_db
def test_an_action_on_a_server_that_has_ended_is_not_in_progress_for_ever(worker):
    """Its journal has ended with it, and that of the server after it begins anew."""
    worker.board.words[Header.STARTED_AT] = 1_700_000_000_000_000
    action = Action("reload", 7, server=1_700_000_000_000_000)
    client = client_of(user("clerk", is_staff=True))
    assert "in progress" in client.get(f"/guard/progress/?{action.query}").text
    worker.board.words[Header.STARTED_AT] += 60_000_000
    for page in ("progress/", "progress/now/"):
        shown = client.get(f"/guard/{page}?{action.query}").text
        assert "Error: the server has ended" in shown
        assert "data-wg-over" in shown


@pytest.mark.django_db
@pytest.mark.parametrize(
    "query", ["", "do=scale", "do=reload&after=x", f"do=reload&after={'9' * 30}", "do=recycle&pid=-1"]
)
def test_an_address_that_names_no_action(worker, query):
    assert client_of(user("clerk", is_staff=True)).get(f"/guard/progress/?{query}").status_code == 404


@pytest.mark.django_db
def test_an_action_names_the_server_and_what_will_happen(worker):
    worker.board.write_about({"name": "shop", "host": "web-1"})
    root = client_of(User.objects.create_superuser("root"))
    for action, effect in (
        ("reload/", "load the present settings and code"),
        ("slot/1/recycle/", "Its successor loads first"),
    ):
        shown = root.get(f"/guard/{action}").text
        assert "shop on web-1" in shown
        assert effect in shown


def test_errors_of_the_last_minute_are_told_apart_from_those_of_a_whole_life(worker):
    board = worker.board
    for index in range(10):
        at = board.layout.sample(1, index)
        board.words[at + Sample.REQUESTS] = 1_000_000 + 10 * index
        board.words[at + Sample.ERRORS_5XX] = 5 + (index if index > 5 else 0)
    board.words[Header.SAMPLES] = 10
    board.words[board.layout.seat(0) + Seat.REQUESTS] = 1_000_090
    board.words[board.layout.seat(0) + Seat.ERRORS_5XX] = 14
    tiles = HtmlCache(worker.board).tiles("/slot/0/")
    assert "<dt>5xx</dt><dd>9 of 60</dd>" in tiles
    assert '<dt>5xx</dt><dd><b>9</b> <span class="wg-quiet">15.0% of them</span></dd>' in tiles


def test_a_look_is_kept_for_a_second(worker):
    now = [100.0]
    looks = HtmlCache(worker.board, clock=lambda: now[0])
    first = looks.tiles("/slot/0/")
    worker.board.words[Header.READY] = 0
    assert looks.tiles("/slot/0/") == first
    now[0] += KEPT
    assert looks.tiles("/slot/0/") != first


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_a_viewer_who_does_not_read_holds_nobody(family):
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            theirs = socket.create_connection(listener.getsockname())
            ours, _ = listener.accept()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        ours.settimeout(5)
        request = RequestFactory().get("/")
        request.META["gunicorn.socket"] = ours
        response = views._send_whole(request, HttpResponse(b"x" * 300_000))
        ours.sendall(b"h" * 2000 + response.content)


def test_names_that_the_dashboard_has_no_file_of_are_not_kept(worker):
    before = static_files._asset.cache_info().currsize
    for number in range(100):
        assert Client().get(f"/guard/assets/{number}.css").status_code == 404
    assert static_files._asset.cache_info().currsize == before
    assert not hasattr(static_files.asset, "cache_info"), "it is asked for any name"


def test_an_event_of_a_slot_is_read_once_however_often_the_slot_is_looked_at(worker, monkeypatch):
    read: list[int] = []

    def reading(board, **more):
        for event in read_events(board, **more):
            read.append(event["number"])
            yield event

    monkeypatch.setattr(snapshots, "read_events", reading)
    for number in range(1, 31):
        write_event(worker.board, {"at": 1, "event": "ready", "slot": number % 2 + 1, "count": number})
    first = [event["count"] for event in snapshots.events_of(worker.board, 1, at_most=5)]
    assert first == [30, 28, 26, 24, 22], "the latest first"
    write_event(worker.board, {"at": 1, "event": "ready", "slot": 1, "count": 31})
    assert [event["count"] for event in snapshots.events_of(worker.board, 1, at_most=5)] == [31, *first[:-1]]
    assert [event["count"] for event in snapshots.events_of(worker.board, 2, at_most=5)] == [
        29,
        27,
        25,
        23,
        21,
    ]
    assert len(read) == len(set(read)) == 31


def test_a_small_page_does_not_shrink_what_the_connection_can_take_at_once():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = RequestFactory().get("/")
        request.META["gunicorn.socket"] = ours
        before = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        views._send_whole(request, HttpResponse(b"x"))
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == before


def test_a_callable_of_the_users_is_asked_once_for_a_page(worker, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(access, "_is_allowed", lambda name, request: not asked.append(name))
    options = GuardOptions(dashboard_access="shop.rights:may_see", dashboard_actions="shop.rights:may_act")
    current.set_current_worker(replace(worker, options=options))
    assert Client().get("/guard/tiles/").status_code == 200
    assert asked == ["shop.rights:may_see"]


def test_the_oldest_requests_of_the_fleet_and_those_of_a_slot_are_listed(worker, db):
    base = worker.board.layout.seat(0)
    worker.board.words[base + Seat.KIND], worker.board.words[base + Seat.SLOT] = SeatKind.WORKER, 1
    register = Register(worker.board, 0)
    client = client_of(user("operator", is_staff=True))
    number = register.begin(b"GET /<b>slow</b>/") & ENTRY_MASK
    worker.board.words[worker.board.layout.started(0) + number] = monotonic_ns() - 70 * 10**9
    # it is young only for a second
    worker.board.words[worker.board.layout.started(0) + (register.begin(b"GET /young/") & ENTRY_MASK)] = (
        monotonic_ns() + 60 * 10**9
    )
    fleet, slot = (client.get(f"/guard/{page}").content.decode() for page in ("tiles/", "slot/1/now/"))
    listed = r"<strong>1m[1-5]\ds</strong> GET /&lt;b&gt;slow&lt;/b&gt;/"
    assert re.search(f'{listed}, <a href="/guard/slot/1/">slot 1</a>', fleet)
    assert "/young/" not in fleet
    assert re.search(f"<li>{listed}</li>", slot)
    assert "/young/" in slot


def test_the_quantiles_of_the_last_minute_are_shown_for_the_fleet_and_for_a_slot(worker, db):
    clerk = client_of(user("clerk", is_staff=True))
    assert "<b>–</b>" in clerk.get("/guard/tiles/").text
    assert "<dt>their durations</dt><dd>–</dd>" in clerk.get("/guard/slot/1/").text
    for at, microseconds in (
        (Header.P50, (12_000, 340_000, 1_200_000)),
        (worker.board.layout.slot(1) + Slot.P50, (20_000, 400_000, 2_500_000)),
    ):
        worker.board.words[at : at + 3] = memoryview(array("Q", microseconds))
    tiles = HtmlCache(worker.board).tiles("/slot/0/")
    assert '<dt>p50, p95</dt><dd><b>12 ms, 340 ms</b> <span class="wg-quiet">p99 1.2 s</span></dd>' in tiles
    assert "<dt>p50, p95</dt><dd>20 ms, 400 ms</dd>" in tiles
    for page in ("slot/1/", "slot/1/now/"):
        assert "<dd>p50 20 ms, p95 400 ms, p99 2.5 s</dd>" in clerk.get(f"/guard/{page}").text
