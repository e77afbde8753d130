from __future__ import annotations

import socket

import pytest
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.arbiter.last_minute import LastMinute
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.durations import write_bounds
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import LARGEST_WORD, Layout, Seat, SeatKind, Slot
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.server.workers.queue_time import UNKNOWN, Queue, waited_by_header, waited_in_kernel
from django_workerguard.server.workers.request_counter import RequestCount
from django_workerguard.worker.register import Register

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        ("t=1789999998.500", 1.5),
        ("1789999998.500", 1.5),
        ("t=1789999998500", 1.5),
        (" 1789999998500 ", 1.5),
        ("t=1789999998500000", 1.5),
        ("t=1790000000", 0.0),
    ],
)
def test_the_header_gives_seconds_milliseconds_or_microseconds(stated, seconds):
    assert waited_by_header(stated, NOW) == pytest.approx(seconds * 1e9, abs=1e6)


@pytest.mark.parametrize(
    "stated",
    [
        *("", "t=", "yesterday", "nan", "inf", "-1", "0", "t=1790000001", "1e300", "t=t=1"),
        "1789990000",  # almost three hours ago
        "1,789,999,998",
        "٣",
    ],
)
def test_a_header_that_is_not_plausible_says_nothing(stated):
    assert waited_by_header(stated, NOW) == UNKNOWN


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_no_header_raises(stated, now):
    assert UNKNOWN <= waited_by_header(stated, now) <= 3600e9


def test_it_is_unknown_without_a_tcp_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert waited_in_kernel(ours) == UNKNOWN
    assert waited_in_kernel(ours) == UNKNOWN
    assert waited_in_kernel(None) == UNKNOWN


SECOND = 1_000_000_000


def a_fleet(workers: int) -> tuple[Board, list[RequestCount], list[Register]]:
    board = Board.create(Layout(seats=workers, slots=workers), None)
    write_bounds(board, [0.1, 1.0])
    for seat in range(workers):
        base = board.layout.seat(seat)
        board.words[base + Seat.PID] = 1_000_000_000 + seat  # nobody's
        board.words[base + Seat.KIND] = SeatKind.WORKER
        board.words[base + Seat.SLOT] = seat + 1
        board.words[board.layout.slot(seat + 1) + Slot.SEAT] = seat + 1
    return (
        board,
        [RequestCount(board, s) for s in range(workers)],
        [Register(board, s) for s in range(workers)],
    )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 4), st.integers(1, 4))
def test_utilisation_is_the_share_of_the_threads_that_were_busy(busy_seconds, workers, threads):
    """In each ten seconds, so many thread-seconds ended."""
    board, _, _ = a_fleet(workers)
    minute = LastMinute(board, 0)
    at = board.layout.histograms(0)
    for number, seconds in enumerate(busy_seconds, 1):
        board.words[at] += 1
        board.words[at + 16] += seconds * SECOND
        minute.sample(workers, workers, threads, number * 10 * SECOND)
    last = busy_seconds[-6:]
    expected = min(1.0, sum(last) / (10 * len(last) * workers * threads))
    assert (board.words[Header.UTILISATION] - 1) / 1000 == pytest.approx(expected, abs=0.001)


def test_a_request_in_hand_is_busy_before_it_ends():
    board, _, (register,) = a_fleet(1)
    minute = LastMinute(board, 0)
    token = register.begin(b"GET /")
    started = token >> 8
    minute.sample(1, 1, 1, started + 10 * SECOND)
    utilisation = (board.words[Header.UTILISATION] - 1) / 1000
    assert utilisation == pytest.approx(10 * SECOND / (started + 10 * SECOND), abs=0.001)


def test_times_in_the_queue_are_those_of_the_last_minute_and_unknown_without_any():
    board, (count,), _ = a_fleet(1)
    minute = LastMinute(board, 0)
    minute.sample(1, 1, 1, 10 * SECOND)
    assert snapshot(board)["queue"] is None
    count.waited(50_000_000)
    count.shed()
    minute.sample(1, 1, 1, 20 * SECOND)
    shot = snapshot(board)
    assert shot["queue"]["p50"] <= 0.1
    assert shot["shed"] == 1
    for number in range(7):
        minute.sample(1, 1, 1, (30 + 10 * number) * SECOND)
    shot = snapshot(board)
    assert shot["queue"] is None
    assert shot["shed"] == 0


def test_what_a_leaving_worker_has_shed_is_counted_once():
    board, (count,), _ = a_fleet(1)
    minute = LastMinute(board, 0)
    count.shed()
    slot = board.layout.slot(1)
    board.words[slot + Slot.SEAT] = 0  # it leaves: the publisher adds it to the slot's own word
    board.words[slot + Slot.SHED] = 1
    minute.sample(1, 0, 1, 10 * SECOND)
    assert snapshot(board)["shed"] == 1


def test_counters_of_any_value_do_not_stop_the_arbiter():
    board, _, _ = a_fleet(2)
    minute = LastMinute(board, 0)
    for seat in range(2):
        board.words[board.layout.seat(seat) + Seat.SHED] = LARGEST_WORD
    minute.sample(2, 2, 1, 10 * SECOND)
    assert snapshot(board)["shed"] == LARGEST_WORD


def test_the_kernel_is_not_asked_where_all_listeners_are_unix_sockets():
    """It would not know, and the answer costs two microseconds of every request."""
    _, (count,), _ = a_fleet(1)
    asked = []

    class Connection:
        def getsockopt(self, *_: int) -> bytes:
            asked.append(1)
            raise OSError

    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        for listeners in ([unix], [unix, tcp]):
            assert Queue(count, 1.0, Config(), listeners).refusal(Connection(), None) is None
    assert len(asked) == 1
