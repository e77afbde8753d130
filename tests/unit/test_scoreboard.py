"""The board: whole words, consistent texts, a journal that wraps, files that are none."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_workerguard.probe.process import start_time
from django_workerguard.scoreboard import discovery
from django_workerguard.scoreboard.board import REPORT_BYTES, Board, BoardError, is_held
from django_workerguard.scoreboard.header import MAGIC, Header, Vitals
from django_workerguard.scoreboard.journal import read_events, write_event
from django_workerguard.scoreboard.layout import (
    EVENTS,
    MAX_SEATS,
    TALLY_WORDS,
    TEXT_WORDS,
    WORD,
    Layout,
    Seat,
    Slot,
    layout_for,
)
from django_workerguard.scoreboard.places import open_board, remove_stale_files, server_name
from django_workerguard.scoreboard.report_text import fit
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.scoreboard.tallies import LOAD_SECONDS, MAX_COUNT, TALLIES

SMALL = Layout(seats=2, slots=2)


@pytest.fixture
def board():
    made = Board.create(SMALL, None)
    yield made
    made.close()


@given(workers=st.integers(1, 2000), surge=st.integers(0, 10))
def test_a_layout_has_seats_for_target_surge_and_retiring(workers, surge):
    layout = layout_for(workers, surge=surge)
    assert layout.seats <= MAX_SEATS
    if workers <= 256:
        assert layout.seats >= 2 * workers + surge


def test_regions_do_not_overlap():
    layout = Layout(seats=3, slots=3)
    edges = [
        layout.about,
        *(layout.seat(n) for n in range(3)),
        *(layout.slot(n) for n in (0, 1, 2, 3)),
        layout.event(0),
    ]
    assert edges == sorted(edges)
    assert layout.slot(0) == layout.seat(2) + Seat.WORDS + TEXT_WORDS
    assert layout.event(0) == layout.slot(3) + Slot.WORDS + TEXT_WORDS
    assert layout.size % WORD == 0


def test_a_text_that_its_writer_left_half_written_reads_as_nothing(board):
    board.write_text(board.seat_text(0), TEXT_WORDS, b"whole")
    assert board.read_text(board.seat_text(0), TEXT_WORDS) == b"whole"
    board.words[board.seat_text(0)] |= 1  # killed while writing
    assert board.read_text(board.seat_text(0), TEXT_WORDS) == b""
    board.clear_seat(0)
    board.write_text(board.seat_text(0), TEXT_WORDS, b"next")
    assert board.read_text(board.seat_text(0), TEXT_WORDS) == b"next"


def test_lengths_and_states_from_shared_memory_are_never_trusted(board):
    board.words[board.seat_text(0)] = 2
    board.words[board.seat_text(0) + 1] = 2**63
    assert len(board.read_text(board.seat_text(0), TEXT_WORDS)) <= TEXT_WORDS * WORD
    board.words[Header.TARGET] = 2**40
    board.words[Header.PHASE] = 99
    board.words[board.layout.slot(1) + Slot.STATE] = 77
    board.words[board.layout.slot(1) + Slot.SEAT] = 2**50
    shot = snapshot(board)
    assert [slot["state"] for slot in shot["slots"]] == ["unknown", "empty"]


@settings(max_examples=50)
@given(
    st.text(min_size=0, max_size=30000), st.text(max_size=3000), st.lists(st.text(max_size=50), max_size=60)
)
def test_a_report_of_any_size_fits(trace, message, names):
    board = Board.create(Layout(seats=1, slots=1), None)
    steps = [{"name": name, "seconds": 1.0} for name in names]
    board.write_seat_report(
        0, {"steps": steps, "error": {"type": "X", "message": message, "traceback": trace}}
    )
    report = board.read_seat_report(0)
    board.close()
    assert report["error"]["type"] == "X"


def test_a_long_traceback_keeps_its_end():
    trace = "first\n" + "line\n" * 10_000 + "the cause"
    fitted = fit({"steps": [], "error": {"type": "X", "message": "m", "traceback": trace}}, REPORT_BYTES)
    assert fitted["error"]["traceback"].endswith("the cause")


def test_many_hazards_are_shortened_to_the_first_ones_and_their_number(board):
    hazards = [f"thread: worker-{number}, which runs {'x' * 60}" for number in range(300)]
    board.write_seat_report(0, {"step": None, "steps": [{"name": "app"}], "hazards": hazards})
    report = board.read_seat_report(0)
    assert [step["name"] for step in report["steps"]] == ["app"]
    assert report["hazards"] == [*hazards[:20], "and 280 more"]
    board.write_seat_report(0, {"steps": [], "hazards": hazards[:30]})
    assert board.read_seat_report(0)["hazards"] == hazards[:30]

    about = {"event": "mold-unfit", "at": 1.0, "slot": 0, "pid": 7, "generation": 2}
    for shown in (hazards, ["x" * 1000], ["x" * 1000] * 3):
        write_event(board, {**about, "hazards": shown})
        event = list(read_events(board))[-1]
        assert about.items() <= event.items()
        first, *rest = event["hazards"]
        assert first.rstrip("…") in shown[0]
        assert len(shown) == 1 or rest[-1].endswith(" more")


def test_the_journal_keeps_the_last_ten_thousand(board):
    for number in range(EVENTS + 5):
        write_event(board, {"at": 1.0, "event": "x", "n": number})
    events = list(read_events(board))
    assert (len(events), events[0]["n"], events[-1]["number"]) == (EVENTS, 5, EVENTS + 5)
    assert [event["n"] for event in read_events(board, after=EVENTS + 3)] == [EVENTS + 3, EVENTS + 4]


@given(st.text(max_size=2000))
def test_an_event_of_any_size_keeps_its_numbers(text):
    board = Board.create(Layout(seats=1, slots=1), None)
    write_event(board, {"at": 1.0, "event": "load-failed", "slot": 3, "message": text})
    (event,) = read_events(board)
    board.close()
    assert (event["event"], event.get("slot", 3)) == ("load-failed", 3)


# without a byte in common and without a zero: a write that clears the word first is seen, and so is half a one
ONE, OTHER = 0x1111111111111111, 0xEEEEEEEEEEEEEEEE


def _write_forever(path: str) -> None:
    import mmap

    with open(path, "r+b") as file:
        words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        at = SMALL.seat(0) + Seat.REQUESTS
        while True:
            words[at] = ONE
            words[at] = OTHER


def test_words_are_never_torn(tmp_path):
    """One process writes two words in turn, another reads."""
    path = tmp_path / "x.1.board"
    board = Board.create(SMALL, path)
    at = SMALL.seat(0) + Seat.REQUESTS
    board.words[at] = ONE
    writer = multiprocessing.get_context("fork").Process(
        target=_write_forever, args=(str(path),), daemon=True
    )
    writer.start()
    try:
        seen = {board.words[at] for _ in range(300_000)}
        while len(seen) < 2 and writer.is_alive():  # the writer may not have begun
            seen.add(board.words[at])
    finally:
        writer.kill()
        writer.join()
        board.close()
    assert seen == {ONE, OTHER}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.write_bytes(b"x" * 20), "truncated"),
        (lambda path: path.write_bytes(b"x" * 20000), "is not a scoreboard"),
        (lambda path: os.truncate(path, path.stat().st_size - 8), "truncated"),
    ],
)
def test_a_file_that_is_no_board_is_named(tmp_path, damage, says):
    path = tmp_path / "shop.1.board"
    Board.create(SMALL, path).close()
    damage(path)
    with pytest.raises(BoardError, match=says):
        Board.open(path)
    assert discovery.read_header(str(path)) is None or says == "truncated"


def test_a_board_of_another_version_is_named(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path)
    board.words[Header.VERSION] = 99
    board.close()
    with pytest.raises(BoardError, match="version 99"):
        Board.open(path)


def test_a_board_has_its_name_only_once_it_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", lambda *args: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        Board.create(SMALL, tmp_path / "shop.1.board")
    assert not list(tmp_path.iterdir())


HOLDER = """
import sys
from pathlib import Path
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout
board = Board.create(Layout(seats=1, slots=1), Path(sys.argv[1]), pid=1, start=1)
print("made", flush=True)
sys.stdin.read()
"""


def test_a_sweep_takes_what_is_stale_and_leaves_what_lives(tmp_path):
    """A board lives as long as its arbiter holds it, whatever its pid means here: it may run in another container."""
    Board.create(SMALL, tmp_path / "dead.999999.board", pid=999999, start=1).close()
    Board.create(SMALL, tmp_path / f"reused.{os.getpid()}.board", pid=os.getpid(), start=1).close()
    (tmp_path / "dead.999999.sock").touch()
    (tmp_path / "torn.999998.new").touch()
    (tmp_path / "another.board").touch()
    live = tmp_path / "live.999997.board"
    command = [sys.executable, "-c", HOLDER, str(live)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        remove_stale_files(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["another.board", live.name]
        holder.stdin.close()
    remove_stale_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["another.board"]


def test_the_header_at_a_glance_is_the_boards(tmp_path):
    path = tmp_path / "shop.1.board"
    board = Board.create(SMALL, path, pid=os.getpid(), start=start_time(os.getpid()))
    board.words[Header.READY] = 7
    words = discovery.read_header(str(path))
    assert words is not None
    assert (words[Header.MAGIC], Vitals(words).ready) == (MAGIC, 7)
    board.close()


def test_names_of_files():
    assert discovery.server_label("/x/my.shop.12.board") == "my.shop.12"
    assert discovery.has_name("/x/my.shop.12.board", "my.shop")
    assert discovery.has_name("/x/my.shop.12.board", "my.shop.12")
    assert not discovery.has_name("/x/my.shop.12.board", "shop")
    assert server_name("a/b c", project=None) == "a_b_c"


def test_without_any_place_the_board_is_anonymous(tmp_path, monkeypatch):
    monkeypatch.setattr(
        discovery, "run_directories", lambda *a, **k: [(str(tmp_path / "file" / "dir"), "somewhere")]
    )
    (tmp_path / "file").touch()
    opened = open_board(SMALL, "shop", None, environ={}, uid=os.geteuid(), pid=1)
    assert opened.board.path is None
    assert "cannot see this server" in opened.warning
    opened.board.close()


def test_the_largest_sequence_is_no_obstacle(board):
    for offset in (board.slot_text(1), board.seat_text(0)):
        board.words[offset] = 2**64 - 1
    board.write_last_error(1, {"type": "E"})
    assert board.read_last_error(1) == {"type": "E", "steps": []}
    board.clear_seat(0)
    board.write_seat_report(0, {"step": "app"})
    assert board.read_seat_report(0)["step"] == "app"


def test_what_was_read_is_never_taken_for_what_the_seats_next_process_writes(board):
    for step in ("app", "urlconf", "app", "lazy"):
        board.clear_seat(0)
        assert not board.read_seat_report(0).get("step")
        board.write_seat_report(0, {"step": step})
        assert board.read_seat_report(0)["step"] == step


def test_the_largest_tallies_fit():
    largest = {name: dict.fromkeys(labels, MAX_COUNT) for name, labels in TALLIES.items()}
    text = json.dumps({**largest, LOAD_SECONDS: float(MAX_COUNT)}, separators=(",", ":"))
    assert len(text) <= (TALLY_WORDS - 2) * WORD


def test_an_arbiter_that_is_stopped_in_the_middle_of_a_change_can_be_read(board):
    board.words[Header.TARGET] = 2
    board.words[Header.CHANGES] = (1 << 62) - 1
    assert snapshot(board)["target"] == 2


def test_an_arbiter_that_has_not_ticked_yet_does_not_look_silent(board):
    assert 0 <= snapshot(board)["arbiter"]["beat_age"] < 60


def test_a_child_that_outlives_its_arbiter_does_not_hold_the_lock(tmp_path):
    board = Board.create(Layout(seats=2, slots=2), tmp_path / "shop.1.board")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        board.drop_lock()
        os.write(writer, b".")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"."
        assert is_held(board.path)
        os.close(board.fd)  # as at the arbiter's end
        assert not is_held(board.path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_the_ready_workers_of_another_arbiter_are_read_from_its_own_whole_board_only(tmp_path):
    own = os.getpid()
    assert discovery.ready_workers(str(tmp_path / "missing"), own) == 0
    board = Board.create(Layout(2, 1), tmp_path / f"site.{own}.board", pid=own, start=start_time(own))
    assert discovery.ready_workers(str(tmp_path), own) == 0
    board.words[Header.READY] = 1
    assert discovery.ready_workers(str(tmp_path), own) == 1
    planted = tmp_path / f"site.{os.getppid()}.board"
    planted.write_bytes((tmp_path / f"site.{own}.board").read_bytes())
    assert discovery.ready_workers(str(tmp_path), os.getppid()) == 0, "it names another arbiter"
    planted.write_bytes(b"half")
    assert discovery.ready_workers(str(tmp_path), os.getppid()) == 0
    board.close()
