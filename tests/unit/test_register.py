"""The register of requests in hand: what the worker writes, and what a reader makes of whatever is there."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.in_hand import InHand, requests_in_hand, requests_of_servers
from django_workerguard.scoreboard.layout import ENTRIES, Layout, Seat, SeatKind
from django_workerguard.worker.register import ENTRY_MASK, NO_ENTRY, Register, current_request, start_of

SEAT = 3


@pytest.fixture
def board():
    board = Board.create(Layout(seats=5, slots=2), None)
    base = board.layout.seat(SEAT)
    board.words[base + Seat.KIND], board.words[base + Seat.PID], board.words[base + Seat.SLOT] = (
        SeatKind.WORKER,
        99,
        2,
    )
    yield board
    board.close()


@pytest.fixture
def register(board):
    tasks = itertools.count(7)
    return Register(board, SEAT, lambda: next(tasks))


def test_a_request_is_there_from_its_begin_to_its_end(board, register):
    first = register.begin(b"GET /books/")
    second = register.begin(b"POST /orders/")
    register.name_view("shop.views.order")
    found = requests_in_hand(board, SEAT)
    assert [(one.method, one.path, one.view, one.task) for one in found] == [
        ("GET", "/books/", "", 7),
        ("POST", "/orders/", "shop.views.order", 9),
    ]
    register.end(first)
    assert [one.path for one in requests_in_hand(board, SEAT)] == ["/orders/"]
    register.end(second)
    assert requests_in_hand(board, SEAT) == []


def test_an_entry_shows_nothing_of_the_request_before(board, register):
    register.end(register.begin(b"GET /a/long/path/to/something/"))
    token = register.begin(b"GET /")
    register.name_view("shop.views.a_long_name")
    register.end(token)
    register.begin(b"GET /b")
    (found,) = requests_in_hand(board, SEAT)
    assert (found.path, found.view, found.limit) == ("/b", "", 0)


def test_what_a_request_has_left_behind_writes_into_no_other_entry(board, register):
    """A task that a request has started keeps its token, and the entry serves the next request."""
    token = register.begin(b"GET /first")
    register.end(token)
    register.begin(b"GET /second")
    current_request.set(token)
    register.name_view("late")
    assert not register.limit(token, 5.0)
    (found,) = requests_in_hand(board, SEAT)
    assert (found.view, found.limit) == ("", 0)


def test_a_full_register_counts_what_has_no_room_and_recovers(board, register):
    tokens = [register.begin(b"GET /") for number in range(ENTRIES + 3)]
    assert [token & ENTRY_MASK for token in tokens[ENTRIES:]] == [NO_ENTRY] * 3
    assert all(start_of(token) for token in tokens)
    assert board.words[board.layout.seat(SEAT) + Seat.NOT_ENTERED] == 3
    board.words[board.layout.seat(SEAT) + Seat.IN_FLIGHT] = ENTRIES + 3
    assert requests_of_servers([board])["not_listed"] == 3
    for token in tokens:
        register.end(token)
    assert requests_in_hand(board, SEAT) == []
    assert register.begin(b"GET /")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"GET /" + b"x" * 65536, "/" + "x" * 99),
        (b"GET /\x1b[31m\n<b>", "/\ufffd[31m\ufffd<b>"),
        (b"GET /caf\xc3\xa9/\xff\xfe", "/café/\ufffd\ufffd"),
        (b"GET /a\0b", "/a"),
        (b"GET", ""),
        (b"", ""),
    ],
)
def test_a_path_of_any_form_is_safe_to_show(board, register, target, path):
    register.begin(target)
    assert [one.path for one in requests_in_hand(board, SEAT)] == [path]


def test_a_seat_that_is_taken_again_holds_no_request(board, register):
    register.begin(b"GET /")
    board.clear_seat(SEAT)
    assert requests_in_hand(board, SEAT) == []


@given(st.binary(min_size=ENTRIES * WORD, max_size=2 * ENTRIES * WORD), st.integers(0, ENTRIES * 20 * WORD))
def test_a_damaged_register_hurts_no_reader(nonsense, at):
    board = Board.create(Layout(seats=5, slots=2), None)
    try:
        base = board.layout.seat(SEAT)
        board.words[base + Seat.KIND], board.words[base + Seat.PID] = SeatKind.WORKER, 1
        board.words[base + Seat.IN_FLIGHT] = 2**64 - 1
        start = board.layout.started(SEAT) * WORD
        board.bytes[start : start + len(nonsense)] = nonsense
        board.bytes[start + at : start + at + len(nonsense)] = nonsense
        shown = requests_of_servers([board])
        text = json.dumps(shown)
        assert "\\u001b" not in text
        assert all(one["age"] >= 0 for one in shown["requests"])
        assert all(isinstance(one, InHand) for one in requests_in_hand(board, SEAT))
    finally:
        board.close()
