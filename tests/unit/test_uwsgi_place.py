"""Which process keeps the board under uWSGI, and what the next one finds on it."""

from __future__ import annotations

import fcntl
import os
import signal
from contextlib import contextmanager
from multiprocessing import get_context

import pytest

from django_workerguard.contrib.uwsgi.place import SILENCE, Place
from django_workerguard.contrib.uwsgi.publisher import Publisher
from django_workerguard.contrib.uwsgi.server import Shown
from django_workerguard.contrib.uwsgi.zombies import Decision, Limits, Record, Sibling, decide, note_end
from django_workerguard.errors import WorkerguardError
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board, is_held
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.journal import read_events, write_event
from django_workerguard.scoreboard.snapshot import snapshot

WORKERS = 3
LIMITS = Limits(load_timeout=60.0, load_retry_delay=1.0, load_retry_max_delay=8.0)


@pytest.fixture
def place(tmp_path):
    """Make places of one server, as each of its workers has one."""
    master = os.getpid()
    return lambda: Place("shop", str(tmp_path), master)


@pytest.fixture
def path(tmp_path):
    return tmp_path / f"shop.{os.getpid()}.board"


def grow_silent(board: Board) -> None:
    board.words[Header.BEAT] = monotonic_ns() - SILENCE - 1


def test_one_keeps_the_board_and_the_others_see_it(place, path):
    first, second = place(), place()
    board = first.take(WORKERS)
    assert board is not None
    assert second.take(WORKERS) is None
    board.words[Header.READY] = 2
    assert second.board is not None
    assert second.board.words[Header.READY] == 2
    assert first.take(WORKERS) is board
    first.release()
    assert second.take(WORKERS) is second.board
    assert first.take(WORKERS) is None
    assert is_held(path)


def test_of_many_that_begin_at_once_one_keeps_it(tmp_path):
    context, number = get_context("fork"), 8
    barrier, results = context.Barrier(number), context.Queue()
    done = context.Event()

    def begin(master: int) -> None:
        barrier.wait(30)
        place = Place("shop", str(tmp_path), master)
        kept = [place.take(WORKERS) is not None for _ in range(5)]
        results.put(any(kept))
        done.wait(30)

    processes = [context.Process(target=begin, args=(os.getpid(),)) for _ in range(number)]
    for process in processes:
        process.start()
    kept = [results.get(timeout=60) for _ in range(number)]
    done.set()
    for process in processes:
        process.join(30)
    assert kept.count(True) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [f"shop.{os.getpid()}.board"]


def test_a_board_is_made_by_one_process_at_a_time(place, tmp_path):
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert place().take(WORKERS) is None
    assert list(tmp_path.iterdir()) == []
    os.close(held)
    assert place().take(WORKERS) is not None


@contextmanager
def forked(work):
    """Run work in a child, which then waits; yield its pid once the work is done."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"."
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


def test_a_keeper_that_is_killed_is_followed_by_another_with_its_history(place):
    first = place()

    def keep() -> None:
        board = first.take(WORKERS)
        write_event(board, {"at": 1.0, "event": "started"})

    second = place()
    with forked(keep):
        assert second.take(WORKERS) is None
    board = second.take(WORKERS)
    assert board is not None
    assert [event["event"] for event in read_events(board)] == ["started"]


def test_a_process_that_the_keeper_has_forked_does_not_hold_its_lock(place, path):
    first = place()
    board = first.take(WORKERS)
    with forked(first.leave_to_parent):
        os.close(board.fd)  # as when the keeper dies, and its child lives on
        assert not is_held(path)
        assert place().take(WORKERS) is not None


def test_a_keeper_that_hangs_is_followed_too(place, path):
    first, second, third = place(), place(), place()
    board = first.take(WORKERS)
    write_event(board, {"at": 1.0, "event": "started"})
    grow_silent(board)
    copied = second.take(WORKERS)
    assert copied is not None
    assert [event["event"] for event in read_events(copied)] == ["started"]
    assert third.take(WORKERS) is None  # not again, although nothing has been published yet
    assert first.take(WORKERS) is None  # it wakes up, and is a follower
    assert first.board.path == second.board.path == path
    assert os.fstat(first.board.fd).st_ino == os.fstat(copied.fd).st_ino


def test_a_board_that_was_removed_is_made_again(place, path):
    first, second = place(), place()
    first.take(WORKERS)
    second.take(WORKERS)
    path.unlink()
    assert first.take(WORKERS) is not None
    assert second.take(WORKERS) is None
    assert path.exists()


def test_a_follower_takes_no_board_that_another_server_has_removed(place, path):
    first, second = place(), place()
    first.take(WORKERS)
    second.take(WORKERS)
    first.release()
    path.unlink()
    board = second.take(WORKERS)
    assert board is not None
    assert board.is_at_its_path()


@pytest.mark.parametrize("content", [b"", b"of another version" * 100])
def test_a_file_that_is_no_board_is_replaced(place, path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    assert place().take(WORKERS) is not None


def test_a_board_for_fewer_workers_or_of_an_earlier_process_is_replaced(place, path):
    first = place()
    small = first.take(WORKERS)
    first.release()
    larger = place().take(100)
    assert larger.layout.slots >= 100
    assert first.take(WORKERS) is None
    path.unlink()
    os.close(larger.fd)
    board = Board.create(small.layout, path, pid=os.getpid(), start=1)
    os.close(board.fd)
    assert place().take(WORKERS).words[Header.START] != 1


def test_without_a_directory_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkerguardError, match="no directory can hold the scoreboard"):
        Place("shop", str(tmp_path / "file"), os.getpid()).take(WORKERS)


# the memory is on the board


def shown(number: int, **fields) -> Shown:
    values = {
        "id": number,
        "pid": 100 + number,
        "start": 7,
        "loaded": True,
        "requests": 0,
        "requests_before": 0,
        "busy": False,
        "cheap": False,
        "respawns": 0,
        "load_seconds": 1,
        **fields,
    }
    return Shown(**values)


def look(publisher: Publisher, memory, now: float, *workers: Shown) -> Decision:
    siblings = [
        Sibling(
            id=one.id, pid=one.pid, start=one.start, loaded=one.loaded, requests=one.requests, cheap=one.cheap
        )
        for one in workers
    ]
    decision = decide(siblings, memory, now, me=1, limits=LIMITS)
    publisher.publish(workers, decision)
    return decision


def close(one: Record, other: Record) -> bool:
    times = [(one.since, other.since), (one.next_end, other.next_end), (one.ended, other.ended)]
    same = one.identity == other.identity and one.failures == other.failures
    return same and all(abs(a - b) < 1e-6 for a, b in times)


def test_the_next_keeper_remembers_what_the_one_before_did(place):
    publisher = Publisher(place().take(WORKERS))
    zombie = shown(2, loaded=False, requests=3, load_seconds=0)
    start = monotonic_ns() / 1e9
    decision = look(publisher, {}, start, shown(1), zombie)
    memory = decision.memory
    for now in (start, start + 600):
        decision = look(publisher, memory, now, shown(1), zombie)
        assert decision.end is not None
        memory = note_end(decision.memory, decision.end, now, limits=LIMITS)
        publisher.killed(zombie, decision.reasons[2], memory[2], now)
        restored = Publisher(publisher.board).memory()
        assert all(close(restored[number], memory[number]) for number in (1, 2)), (restored, memory)
        zombie = shown(2, pid=zombie.pid + 1, loaded=False, requests=1, load_seconds=0)
        memory = look(publisher, memory, now + 1, shown(1), zombie).memory
        restored = Publisher(publisher.board).memory()
        assert all(close(restored[number], memory[number]) for number in (1, 2)), (restored, memory)
    assert memory[2].failures == 2


def test_what_readers_see(place):
    board = place().take(WORKERS)
    publisher = Publisher(board)
    publisher.introduce({"name": "shop", "worker_class": "uwsgi"}, kind=0, quorum=1)
    publisher.kept_by(shown(1), target=2)
    zombie = shown(2, loaded=False, requests=3, load_seconds=0)
    stopped = shown(3, pid=0, start=0, loaded=False, cheap=True, load_seconds=0)
    memory = look(publisher, {}, 1000.0, shown(1, requests=5, requests_before=7), zombie, stopped).memory
    shot = snapshot(board)
    assert (shot["ready"], shot["target"], shot["worker_class"]) == (1, 2, "uwsgi")
    first, second = shot["slots"]
    assert (first["state"], first["requests"], first["load_seconds"]) == ("ready", 12, 1.0)
    assert (second["state"], second["errors_5xx"], second["failures"]) == ("unloaded", 3, 1)
    assert second["last_error"]["type"] == "NoApplication"
    look(publisher, memory, 1001.0, shown(1), shown(2, pid=999), stopped)
    second = snapshot(board)["slots"][1]
    assert (second["state"], second["errors_5xx"], second["failures"]) == ("ready", 3, 0)
    names = [(event["event"], event.get("slot")) for event in read_events(board)]
    assert names == [
        ("started", None),
        ("keeper", 1),
        ("spawned", 1),
        ("ready", 1),
        ("spawned", 2),
        ("load-failed", 2),
        ("spawned", 2),
        ("ready", 2),
    ]
    assert board.words[Header.SAMPLES] == 1
    assert Publisher(board).board.read_tallies()["load_failures"]["exception"] == 1
