"""The arbiter lives through what ends others: no process, no memory, no descriptor, hooks that raise, nonsense on its scoreboard."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_workerguard.cli.main import main
from django_workerguard.errors import ExitCode
from django_workerguard.report.findings import assess
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import ABOUT_WORDS, TEXT_WORDS, Seat, SeatKind, Slot
from tests.process.harness import Faults, Server, Since, WaitError, assert_healed, wait_whole
from tests.process.limits import (
    AS_STRANGER,
    STRANGER,
    address_space,
    limit,
    limit_file,
    limit_processes,
)
from tests.process.room import inside


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def assert_served_by_others(server: Server, victim: int) -> None:
    replies = [server.get("/") for _ in range(10)]
    assert {reply.status for reply in replies} == {200}
    assert victim not in {reply.pid for reply in replies}


def stand_in_of(server: Server) -> set[int]:
    with server.board() as board:
        seats = [board.layout.seat(number) for number in range(board.layout.seats)]
        pids = [
            board.words[seat + Seat.PID]
            for seat in seats
            if board.words[seat + Seat.KIND] == SeatKind.STAND_IN
        ]
        return set(pids) - {0}


# no process, no memory, no descriptor


@pytest.mark.needs("root")
def test_fork_fails_because_the_user_may_have_no_more_processes(serve, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    os.chown(run_dir, STRANGER, STRANGER)
    # the interpreter may lie where only root looks; RLIMIT_NPROC holds all the same
    looks = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    server = serve(run_dir=run_dir, prefix=(*AS_STRANGER, *looks))
    server.wait_ready()
    victim, _ = server.pids()

    limit_processes(server.arbiter, "1")
    kill(victim)
    failed = server.wait_event("spawn-failed", count=3)

    assert "Resource temporarily unavailable" in failed["reason"]
    (finding,) = assess(server.status())
    assert finding.code == "cannot-start"
    assert "Resource temporarily unavailable" in finding.text
    assert_served_by_others(server, victim)
    assert server.log.count("no process can be started") == 1, "said once, not at every try"
    limit_processes(server.arbiter, "100")
    assert_healed(server, server.arbiter)
    assert server.status()["arbiter"]["errors"] == 0
    assert server.stop() == 0


HEADROOMS = {"none": 0, "a little": 1 << 20, "some": 8 << 20}  # bytes
# hooks that stop a worker
STOPPING = {
    "post_fork": "server, worker",
    "post_worker_init": "worker",
    "pre_fork": "server, worker",
}
# hooks around a worker
AROUND = {
    "child_exit": "server, worker",
    "worker_exit": "server, worker",
    "nworkers_changed": "server, new, old",
    "on_reload": "server",
    "pre_exec": "server",
    "on_exit": "server",
}


def failing(names: dict[str, str], switch: Path) -> str:
    hook = "def {name}({arguments}):\n    if os.path.exists({switch!r}):\n        raise RuntimeError('{name} fails')\n"
    return "import os\n" + "".join(
        hook.format(name=name, arguments=arguments, switch=str(switch)) for name, arguments in names.items()
    )


@pytest.mark.timeout(400)
def test_no_memory_no_descriptors_and_hooks_that_raise(worker_class, serve, tmp_path, subtests):
    """What is the arbiter's alone is tested on one worker class. No hook raises until its switch is there."""
    conf, around = tmp_path / "gunicorn.conf.py", tmp_path / "around"
    switches = {hook: tmp_path / hook for hook in STOPPING} if worker_class == "sync" else {}
    conf.write_text(
        failing(AROUND, around)
        + "".join(failing({hook: STOPPING[hook]}, switch) for hook, switch in switches.items())
    )
    server = serve("-k", worker_class, "-c", str(conf))
    wait_whole(server)

    for hook, switch in switches.items():
        with subtests.test(f"{hook} stops a worker"):
            assert_a_hook_that_stops_a_worker_costs_that_slot_only(server, hook, switch)
        switch.unlink(missing_ok=True)
        wait_whole(server)
    for room, headroom in HEADROOMS.items() if worker_class == "sync" else [("a little", 1 << 20)]:
        with subtests.test(f"no more memory for the arbiter and its children: {room}"):
            assert_lives_without_memory(server, headroom)
        limit(server.arbiter, resource.RLIMIT_AS, resource.RLIM_INFINITY)
        wait_whole(server)
    before, _ = resource.prlimit(server.arbiter, resource.RLIMIT_NOFILE)
    with subtests.test("too many open files"):
        assert_lives_with_too_many_open_files(server)
    limit(server.arbiter, resource.RLIMIT_NOFILE, before)
    wait_whole(server)
    with subtests.test("hooks that raise around a worker cost nothing"):
        assert_hooks_that_raise_around_a_worker_cost_nothing(server, around, worker_class)


def assert_a_hook_that_stops_a_worker_costs_that_slot_only(server: Server, hook: str, switch: Path) -> None:
    since = Since(server)
    victim, _ = server.pids()
    switch.touch()
    kill(victim)
    since.wait("spawn-failed" if hook == "pre_fork" else "load-failed", count=2)
    assert f"{hook} fails" in server.log
    assert_served_by_others(server, victim)
    switch.unlink()
    assert_healed(server, server.arbiter)
    assert server.status()["arbiter"]["errors"] == 0


def assert_lives_without_memory(server: Server, headroom: int) -> None:
    since = Since(server)
    victim, _ = server.pids()

    limit(server.arbiter, resource.RLIMIT_AS, address_space(server.arbiter) + headroom)
    kill(victim)
    server.wait("a failure", lambda _: since.events("load-failed") or since.events("spawn-failed"))

    assert_served_by_others(server, victim)
    limit(server.arbiter, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    assert_healed(server, server.arbiter)


def assert_lives_with_too_many_open_files(server: Server) -> None:
    since = Since(server)
    victim, _ = server.pids()
    before, _ = resource.prlimit(server.arbiter, resource.RLIMIT_NOFILE)

    limit(server.arbiter, resource.RLIMIT_NOFILE, 3)
    kill(victim)
    failed = since.wait("load-failed", count=2)

    assert failed["type"] == "OSError"
    assert "Too many open files" in failed["message"]
    assert_served_by_others(server, victim)
    limit(server.arbiter, resource.RLIMIT_NOFILE, before)
    assert_healed(server, server.arbiter)


def assert_hooks_that_raise_around_a_worker_cost_nothing(
    server: Server, switch: Path, worker_class: str
) -> None:
    since = Since(server)
    errors = server.status()["arbiter"]["errors"]
    switch.touch()

    kill(server.pids()[0])
    since.wait("ready")
    server.signal(signal.SIGTTIN)
    server.wait_ready(3)
    server.signal(signal.SIGTTOU)
    server.wait("two again", lambda status: status["target"] == 2 and len(status["slots"]) == 2)
    server.signal(signal.SIGHUP)
    server.wait("the new code", lambda status: all(slot["generation"] == 2 for slot in status["slots"]))
    server.signal(signal.SIGUSR2)
    server.wait_log("SIGUSR2: cannot start a second arbiter")
    assert_healed(server, server.arbiter)
    assert server.status()["arbiter"]["errors"] == errors, server.log
    assert len(list(server.run_dir.glob("*.board"))) == 1
    assert server.stop() == 0
    raised = set(AROUND)
    if "uvicorn" in worker_class:
        raised.remove("worker_exit")  # uvicorn ends its process by the signal that stopped it
    for name in raised:
        assert f"RuntimeError: {name} fails" in server.log


@pytest.mark.needs("root")
def test_a_worker_that_the_kernel_kills_for_want_of_memory(serve, tmp_path, memory_cgroup):
    procs = memory_cgroup / "cgroup.procs"
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(
        "import os\n"
        "def post_fork(server, worker):\n"
        f"    if os.path.exists({str(tmp_path / 'confined')!r}):\n"
        f"        open({str(procs)!r}, 'w').write('0')\n"
    )
    server = serve("-c", str(conf), prefix=inside(memory_cgroup.parent))
    server.wait_ready()
    victim, _ = server.pids()

    limit_file(memory_cgroup).write_text(str(6 << 20))
    (tmp_path / "confined").touch()
    kill(victim)
    failed = server.wait_event("load-failed", count=2)

    assert failed["type"] == "SIGKILL"
    assert failed["message"] == "by the kernel: out of memory"
    (exited,) = server.events("exited")
    assert exited["by"] == "unknown", "we killed the first"
    assert_served_by_others(server, victim)
    limit_file(memory_cgroup).write_text(str(1 << 30))
    assert_healed(server, server.arbiter)
    assert str(server.pids()[0]) in procs.read_text().split(), "it was the confined worker that loaded"


# whoever is killed, whatever is written


def test_a_stand_in_that_is_killed_is_replaced(serve, faults):
    server = serve("--stand-in-after", "200ms")
    server.wait_ready()
    (first,) = stand_in_of(server)
    kill(first)
    server.wait("another", lambda _: stand_in_of(server) not in ({first}, set()))

    faults.set("ready", "memory")
    for pid in server.pids():
        kill(pid)
    server.wait("the stand-in", lambda status: status["stand_in"])
    (second,) = stand_in_of(server)
    assert server.get("/").status == 503
    kill(second)
    server.wait_event("duty", lambda event: event["on"], count=2)
    server.wait(
        "the third", lambda status: status["stand_in"] and stand_in_of(server) not in ({second}, set())
    )
    assert server.get("/").status == 503
    faults.clear()
    assert_healed(server, server.arbiter)


DEEP = b"[" * 9000
WILD = {
    "bytes": ((1 << 64) - 1, os.urandom(512)),
    "deep": ((1 << 64) - 1, DEEP),
    "numbers for texts": (1 << 63, b'{"step": 3, "steps": 5, "error": {"type": 1, "at": "noon"}}'),
    "wrong steps": (7, b'{"steps": [1, {"name": [], "seconds": "x"}], "error": ["x"]}'),
    "huge numbers": (7, b'{"steps": [{"seconds": ' + b"9" * 400 + b'}], "error": {"at": 1e300}}'),
}


@contextlib.contextmanager
def writable_board(server: Server) -> Iterator[Board]:
    """Map the board of a server as its workers have it."""
    (path,) = server.run_dir.glob("*.board")
    read_only = Board.open(path)
    fd = os.open(path, os.O_RDWR)
    board = Board(mmap.mmap(fd, 0), read_only.layout, fd=fd, path=path)
    read_only.close()
    try:
        yield board
    finally:
        board.close()


def scribble(board: Board, word: int, text: bytes) -> None:
    """Write into every word and text that a worker has to itself, but its state and its beat."""
    for index in range(board.layout.seats):
        at = board.layout.seat(index)
        for number in range(Seat.REQUESTS, Seat.WORDS):
            board.words[at + number] = word
        board.write_text(at + Seat.WORDS, TEXT_WORDS, text)


@pytest.mark.timeout(300)
def test_nonsense_on_the_scoreboard(serve, faults, capsys, subtests):
    server = serve()
    wait_whole(server)
    for name, wild in WILD.items():
        with subtests.test(f"a worker writes nonsense into its seat: {name}"):
            assert_lives_with_nonsense(server, wild, faults)
            assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
        faults.clear()
        wait_whole(server)
    # the last part, because it spoils the words of the arbiter
    with subtests.test("a process writes nonsense everywhere"):
        assert_lives_with_nonsense_everywhere(server)
        assert server.stop() == 0


def assert_lives_with_nonsense(server: Server, wild: tuple[int, bytes], faults: Faults) -> None:
    since = Since(server)
    with writable_board(server) as board:
        scribble(board, *wild)
        kill(server.pids()[0])
        since.wait("ready")
        scribble(board, *wild)
        faults.set("ready", "kill", 1)  # a process that dies in its load leaves what it wrote
        victim = server.pids()[1]
        kill(victim)
        server.wait("a load", lambda status: status["slots"][1]["pid"] not in (None, victim))
        scribble(board, *wild)
        since.wait("load-failed")
        since.wait("ready", count=2)
        scribble(board, *wild)

    for command in (["status"], ["status", "--json"], ["explain", "1"], ["explain", "2"], ["events"]):
        assert main([*command, "--run-dir", str(server.run_dir)]) == ExitCode.OK
    for pid in server.pids():  # whose own counters are spoilt
        kill(pid)
    since.wait("ready", count=4)
    assert server.status()["arbiter"]["errors"] == 0, server.log
    assert server.statuses(10) == {200: 10}


def assert_lives_with_nonsense_everywhere(server: Server) -> None:
    """Not even what belongs to the arbiter, the pids above all, makes it kill or lose anybody."""
    since = Since(server)
    before = server.pids()
    innocent = subprocess.Popen(["sleep", "600"])
    try:
        with writable_board(server) as board:
            scribble_over_the_arbiter(board, innocent.pid)
        for pid in before:
            kill(pid)
        since.wait("exited", count=2)
        since.wait("ready", count=2)
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()
    assert server.status()["arbiter"]["errors"] == 0, server.log
    assert server.statuses(10) == {200: 10}


def scribble_over_the_arbiter(board: Board, pid: int) -> None:
    for index in range(board.layout.seats):
        at = board.layout.seat(index)
        for word in (Seat.PID, Seat.SLOT, Seat.GENERATION, Seat.START):
            board.words[at + word] = pid
        board.words[at + Seat.ORDERS] = (1 << 64) - 1
    for slot in range(1, board.layout.slots + 1):
        for word in range(Slot.WORDS):
            board.words[board.layout.slot(slot) + word] = (1 << 64) - 1
    board.words[Header.EVENTS] = board.words[Header.SAMPLES] = (1 << 64) - 1
    board.words[Header.ERRORS] = 0
    board.write_text(board.layout.about, ABOUT_WORDS, DEEP)


# a hook that ends the start


def test_a_hook_that_ends_the_start_leaves_nothing(serve, tmp_path):
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text("def on_starting(server):\n    raise RuntimeError('on_starting fails')\n")
    server = serve("-c", str(conf))
    with pytest.raises(WaitError):
        server.wait_ready()
    assert server.wait_exit() == ExitCode.UNEXPECTED
    assert "RuntimeError: on_starting fails" in server.log
    assert not list(server.run_dir.glob("*.board"))
