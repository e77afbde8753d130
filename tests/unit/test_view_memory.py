"""Memory by view: which request is charged to which view, and what a reader makes of whatever is in a table."""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.report.tables import memory_table
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.layout import VIEWS, VIEWS_WORDS, Layout, Seat, SeatKind
from django_workerguard.scoreboard.view_memory import (
    NO_VIEW,
    OTHER_VIEWS,
    ViewMemory,
    bounded,
    fold_views,
    memory_of_servers,
    named_most,
    summed,
    views_of_seat,
    views_of_slot,
)
from django_workerguard.worker import view_memory
from django_workerguard.worker.register import Register
from django_workerguard.worker.view_memory import FIRST_USES, ViewTable, memory_reader

SEAT, SLOT = 2, 1
MB = 1 << 20


class Memory:
    """The private memory of a worker, which a test sets."""

    now = 100 * MB

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def _each_request_is_measured(monkeypatch):
    monkeypatch.setattr(view_memory, "PAUSE", 0)


def a_board() -> Board:
    board = Board.create(Layout(seats=4, slots=2), None)
    base = board.layout.seat(SEAT)
    for word, value in (
        (Seat.KIND, SeatKind.WORKER),
        (Seat.PID, 99),
        (Seat.SLOT, SLOT),
        (Seat.GENERATION, 1),
    ):
        board.words[base + word] = value
    return board


def a_register(board: Board, memory: Memory) -> Register:
    return Register(board, SEAT, memory=ViewTable(board, SEAT, memory))


def serve(register: Register, memory: Memory, view: str, growth: int) -> None:
    token = register.begin(b"GET /")
    if view:
        register.name_view(view)
    memory.now += growth
    register.end(token)


def test_growth_is_charged_to_the_view_and_first_uses_are_apart():
    board, memory = a_board(), Memory()
    register = a_register(board, memory)
    for growth in (5, 4, 3, 2, -1, 2):
        serve(register, memory, "shop.views.export", growth * MB)
    serve(register, memory, "", MB)
    assert {row.view: row for row in views_of_seat(board, SEAT)} == {
        "shop.views.export": ViewMemory("shop.views.export", 3, 4 * MB, MB, FIRST_USES, 12 * MB, 5 * MB),
        NO_VIEW: ViewMemory(NO_VIEW, 0, 0, 0, 1, MB, MB),
    }


def test_what_is_freed_after_the_end_was_not_kept():
    """The server still has the response and the request's body when it takes the request out of the register."""
    board, memory = a_board(), Memory()
    register = a_register(board, memory)
    for _ in range(5):
        serve(register, memory, "shop.views.download", 21 * MB)
        memory.now -= 20 * MB
    serve(register, memory, "shop.views.cart", 0)
    memory.now -= 30 * MB  # nothing of which the last request has added
    serve(register, memory, "shop.views.cart", 0)
    assert {row.view: row for row in views_of_seat(board, SEAT)} == {
        "shop.views.download": ViewMemory("shop.views.download", 2, 2 * MB, 0, FIRST_USES, 3 * MB, MB),
        "shop.views.cart": ViewMemory("shop.views.cart", 0, 0, 0, 2, 0, 0),
    }


def test_the_newest_growth_is_known_before_the_next_request():
    board, memory = a_board(), Memory()
    serve(a_register(board, memory), memory, "shop.views.export", 300 * MB)
    assert [row.first_use for row in views_of_seat(board, SEAT)] == [300 * MB]


def test_a_view_that_grows_is_in_the_table_however_many_came_before_it():
    board, memory = a_board(), Memory()
    register = a_register(board, memory)
    for number in range(VIEWS + 20):
        serve(register, memory, f"view{number}", 4096)
    for _ in range(FIRST_USES + 2):
        serve(register, memory, "view59", MB)
        serve(register, memory, "view58", 0)
    rows = views_of_seat(board, SEAT)
    assert named_most(rows) == ["view59 +3 MB"]
    assert len(rows) == VIEWS
    assert sum(row.first_uses for row in rows) == VIEWS + 20 + 2 + 2
    assert sum(row.first_use for row in rows) == (VIEWS + 20) * 4096 + 2 * MB


steps = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-50, 50), st.booleans()), max_size=60)


@given(steps)
def test_only_a_request_that_was_alone_is_charged(steps):
    """Requests begin, grow and end in any order; the model charges one iff no other was in hand at any time of it."""
    board, memory = a_board(), Memory()
    register = a_register(board, memory)
    in_hand: dict[int, tuple[str, int]] = {}  # by token: the view, and the memory at its begin
    shared: set[int] = set()
    expected: dict[str, list[int]] = {}
    for view, growth, ends in steps:
        if ends and in_hand:
            token = next(iter(in_hand))
            memory.now += growth * 4096
            register.end(token)
            of, before = in_hand.pop(token)
            if token not in shared:
                expected.setdefault(of, []).append(memory.now - before)
        else:
            token = register.begin(b"GET /")
            register.name_view(view)
            in_hand[token] = (view, memory.now)
            if len(in_hand) > 1:
                shared |= in_hand.keys()
    found = {row.view: row for row in views_of_seat(board, SEAT)}
    assert found.keys() == expected.keys()
    for view, growths in expected.items():
        first, later = growths[:FIRST_USES], growths[FIRST_USES:]
        assert found[view].retained == sum(later)
        assert found[view].first_use == sum(one for one in first if one > 0)
        assert (found[view].measured, found[view].first_uses) == (len(later), len(first))
        assert found[view].largest == max(0, *growths, 0)
    not_alone = board.words[board.layout.seat(SEAT) + Seat.NOT_ALONE]
    assert bool(not_alone) == bool(shared)
    board.close()


def test_a_descriptor_that_somebody_closed_ends_the_measuring_and_no_request():
    board = a_board()
    statm = os.dup(0)
    os.close(statm)  # the next one that is opened has this number
    register = Register(board, SEAT, memory=ViewTable(board, SEAT))
    token = register.begin(b"GET /")
    os.close(statm)
    register.end(token)
    register.end(register.begin(b"GET /"))
    assert views_of_seat(board, SEAT) == []


@pytest.mark.parametrize("error", [ValueError, IndexError, OSError])
def test_memory_that_cannot_be_read_is_not_measured(error):
    def read():
        raise error

    board = a_board()
    register = Register(board, SEAT, memory=ViewTable(board, SEAT, read))
    for _ in range(3):
        register.end(register.begin(b"GET /"))
    assert views_of_seat(board, SEAT) == []


def test_a_page_that_is_written_is_private_memory():
    read = memory_reader()
    with mmap.mmap(-1, 8 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        before = read()
        fresh.write(bytes(8 * MB))
        assert 7 * MB < read() - before < 20 * MB


@pytest.mark.parametrize("view", ["v" * 10_000, "\udcff.views", "日本.views.eins"])
def test_any_name_of_a_view(view):
    board, memory = a_board(), Memory()
    serve(a_register(board, memory), memory, view, MB)
    (row,) = views_of_seat(board, SEAT)
    assert row.view
    json.dumps(memory_of_servers([board]))


def test_more_views_than_rows():
    board, memory = a_board(), Memory()
    register = a_register(board, memory)
    for number in range(VIEWS + 20):
        for _ in range(FIRST_USES + 1):
            serve(register, memory, f"view{number}", MB)
    rows = views_of_seat(board, SEAT)
    assert len(rows) == VIEWS
    assert rows[-1].view == OTHER_VIEWS
    assert sum(row.retained + row.first_use for row in rows) == (VIEWS + 20) * (FIRST_USES + 1) * MB
    fold_views(board, SLOT, SEAT, 1)
    assert views_of_seat(board, SEAT) == []
    assert summed(rows) == views_of_slot(board, SLOT)


rows = st.builds(
    ViewMemory,
    st.sampled_from([f"view{number}" for number in range(60)] + [OTHER_VIEWS]),
    *[st.integers(0, 1 << 40)] * 6,
)


@given(st.lists(rows, max_size=90))
def test_a_sum_that_is_bounded_loses_nothing(rows):
    found = bounded(rows)
    assert len(found) <= VIEWS
    assert len({row.view for row in found}) == len(found)
    for name in ("measured", "retained", "first_use"):
        assert sum(getattr(row, name) for row in found) == sum(getattr(row, name) for row in rows)


def test_workers_of_one_slot_are_added_up_and_a_new_generation_begins_anew():
    board, memory = a_board(), Memory()
    for _ in range(2):
        register = a_register(board, memory)
        for _ in range(FIRST_USES + 1):
            serve(register, memory, "old", MB)
        fold_views(board, SLOT, SEAT, 1)
    assert [(row.view, row.retained) for row in views_of_slot(board, SLOT)] == [("old", 2 * MB)]
    board.words[board.layout.seat(SEAT) + Seat.GENERATION] = 2
    register = a_register(board, memory)
    for _ in range(FIRST_USES + 2):
        serve(register, memory, "new", MB)
    assert [(row.view, row.retained) for row in views_of_slot(board, SLOT)] == [("new", 2 * MB)]
    fold_views(board, SLOT, SEAT, 2)
    assert [(row.view, row.retained) for row in views_of_slot(board, SLOT)] == [("new", 2 * MB)]
    serve(a_register(board, memory), memory, "old", MB)
    fold_views(board, SLOT, SEAT, 1)
    assert [row.view for row in views_of_slot(board, SLOT)] == ["new"], "a late worker of the old code"


@given(st.binary(min_size=1, max_size=200))
def test_a_damaged_table_is_read_and_folded(data):
    board, size = a_board(), VIEWS_WORDS * WORD
    board.write_bytes(board.layout.views(SEAT), (data * size)[:size])
    for _ in range(2):
        found = memory_of_servers([board])
        assert all(line.isprintable() for line in memory_table(found))
        json.dumps(found)
        fold_views(board, SLOT, SEAT, 1)
    board.close()


def test_a_slot_that_only_one_of_the_servers_has():
    small, large = a_board(), Board.create(Layout(seats=4, slots=16), None)
    assert memory_of_servers([small, large], slot=16)["views"] == []
    assert memory_of_servers([small], slot=1 << 40)["views"] == []


def test_an_event_names_a_view_that_grew_in_its_first_requests_alone():
    rows = [
        ViewMemory("shop.views.report", first_uses=1, first_use=300 * MB, largest=300 * MB),
        ViewMemory("shop.views.export", 300, 64 * MB, 2 * MB, 3, 22 * MB, 14 * MB),
        ViewMemory("shop.views.cart", 9, 9, 0, 3, MB - 1, MB - 1),
    ]
    assert named_most(rows) == ["shop.views.report +300 MB in its first requests", "shop.views.export +62 MB"]


def test_the_largest_jump_is_not_lost_among_other_views():
    jump = ViewMemory("shop.views.report", 1, 0, 5, 1, 300 * MB, 300 * MB)
    rows = [ViewMemory(f"view{number}", 1, 10) for number in range(60)]
    assert jump in bounded([*rows, jump])


def test_a_table_for_people():
    rows = [ViewMemory("shop.views.export", 300, 64 * MB, 2 * MB, 3, 22 * MB, 14 * MB), ViewMemory("cart", 0)]
    found = {"views": [row.as_dict() for row in rows], "not_alone": 7}
    assert memory_table(found) == [
        "VIEW               KEPT      EACH       LARGEST   FIRST USE  MEASURED",
        "shop.views.export  +62.0 MB  +211.6 kB  +14.0 MB  +22.0 MB   300",
        "cart               +0.0 MB   -          +0.0 MB   +0.0 MB    0",
        "7 requests were not measured: others were in hand with them.",
    ]
    assert memory_table({"views": [], "not_alone": 0}) == ["No request has been measured yet."]
    assert named_most(rows) == ["shop.views.export +62 MB"]


def test_threads_that_charge_at_the_same_time_lose_nothing():
    """Seldom, but possible: a thread is interrupted while it charges its request, and another one charges its own."""
    board, memory = a_board(), Memory()
    tables = ViewTable(board, SEAT, memory)
    charges, views, errors = 400, 3 * VIEWS, []

    def charge(own: int) -> None:
        try:
            for number in range(charges):
                tables.charge(f"view{own}.{number % views}", number)
        except Exception as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=charge, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    rows = views_of_seat(board, SEAT)
    assert sum(row.measured + row.first_uses for row in rows) == len(threads) * charges
    assert sum(row.retained + row.first_use for row in rows) == len(threads) * sum(range(charges))
