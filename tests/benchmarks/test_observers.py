"""What observers cost that no worker answers: the stacks of a busy worker, and a scrape from the monitor with 64 slots."""

from __future__ import annotations

import http.client
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from django_workerguard.scoreboard.control_client import ask_for_file
from django_workerguard.scoreboard.layout import Seat, Slot
from django_workerguard.scoreboard.stack_format import END
from tests.benchmarks.measure import Running, board_of, cpu_seconds, free_port, judge, server, wrk
from tests.process.monitors import is_monitor

STACKS, STACKS_LIMIT = 40, 50.0  # times, and milliseconds that each may cost the worker
STACKS_PAUSE = 0.25  # seconds
# by worker class: the number of requests that the worker has in hand
IN_HAND = {"sync": 0, "gthread": 63, "gevent": 120, "asgi": 120}
SLOTS, SCRAPES, SCRAPE_LIMIT = 64, 100, 10.0  # milliseconds


def get(port: int, path: str, *, timeout: float = 600) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


@contextmanager
def waiting(port: int, count: int) -> Iterator[None]:
    """Keep a number of requests in hand that wait and compute nothing."""

    def ask() -> None:
        with suppress(OSError, http.client.HTTPException):  # the server ends with the requests in hand
            get(port, "/wait")

    for _ in range(count):
        threading.Thread(target=ask, daemon=True).start()
    yield


class Pulse(threading.Thread):
    """Asks for a page again and again, and remembers the longest that one took between two looks."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._longest = 0.0
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            begun = time.perf_counter()
            get(self._port, "/")
            self._longest = max(self._longest, time.perf_counter() - begun)

    def longest(self) -> float:
        """Return the longest since the last call, in milliseconds."""
        longest, self._longest = self._longest, 0.0
        return longest * 1000


def stacks(socket_path: Path, pid: int) -> int:
    """Ask a worker for its stacks; return how many bytes they are."""
    answer, fd = ask_for_file(socket_path, "stacks", pid=pid)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            data = os.pread(fd, 8 << 20, answer["offset"])
            if END.encode() in data:
                return len(data)
            time.sleep(0.001)
    finally:
        os.close(fd)
    raise AssertionError("no stacks")


def control_socket_and_pid(running: Running) -> tuple[Path, int]:
    with closing(board_of(running)) as board:
        seat = board.words[board.layout.slot(1) + Slot.SEAT] - 1
        return board.path.with_suffix(".sock"), board.words[board.layout.seat(seat) + Seat.PID]


@pytest.mark.parametrize("worker_class", IN_HAND)
def test_stacks(worker_class):
    count = IN_HAND[worker_class]
    arguments = ["--threads", "64"] if worker_class == "gthread" else []
    guard = ["--worker-reload-mercy", "1"]
    with server("guarded", workers=1, worker_class=worker_class, arguments=arguments, guard=guard) as running:
        socket_path, pid = control_socket_and_pid(running)
        with waiting(running.port, count):
            time.sleep(3)
            costs, asked, quiet, size = [], [], [], 0
            pulse = Pulse(running.port)
            for _ in range(STACKS):
                before = cpu_seconds(pid)
                size = stacks(socket_path, pid)
                costs.append((cpu_seconds(pid) - before) * 1000)
                time.sleep(STACKS_PAUSE / 10)
            pulse.start()
            for number in range(2 * STACKS):  # in alternation: without the stacks, and with them
                pulse.longest()
                if number % 2:
                    stacks(socket_path, pid)
                time.sleep(STACKS_PAUSE)
                (asked if number % 2 else quiet).append(pulse.longest())
            pulse.is_over = True
            pulse.join()
    cost, worst = statistics.median(costs), max(costs)
    longer = statistics.median(asked) - statistics.median(quiet)
    judge(
        f"stacks of a worker of the class {worker_class} with {count} requests in hand, {STACKS} times",
        f"CPU of the worker: {cost:.1f} ms, at most {worst:.1f}; {size / 1024:.0f} KB of stacks",
        f"the slowest of the requests beside it: {statistics.median(asked):.1f} ms (at most {max(asked):.1f}); "
        f"without stacks {statistics.median(quiet):.1f} ms (at most {max(quiet):.1f})",
        figures=[
            (cost < STACKS_LIMIT, f"CPU: {cost:.1f} ms of less than {STACKS_LIMIT:g}"),
            (
                longer < STACKS_LIMIT,
                f"a request beside it: {longer:.1f} ms longer, of less than {STACKS_LIMIT:g}",
            ),
        ],
    )


def monitor_of(running: Running) -> int:
    for pid in running.children:
        if is_monitor(pid):
            return pid
    raise AssertionError("there is no monitor")


def test_a_scrape_of_the_monitor():
    place = free_port()
    guard = ["--load", "mold", "--monitor-bind", f"127.0.0.1:{place}"]
    with server("guarded", workers=SLOTS, worker_class="sync", guard=guard) as running:
        deadline = time.monotonic() + 120
        while get(place, "/metrics").status != 200 or _ready(running) < SLOTS:
            assert time.monotonic() < deadline, "not every worker is ready"
            time.sleep(0.5)
        wrk(running.port, seconds=3, connections=32)
        wrk(running.port, seconds=1, connections=8, path="/nothing")
        monitor = monitor_of(running)
        took, before = [], cpu_of_process(monitor)
        for _ in range(SCRAPES):
            begun = time.perf_counter()
            assert get(place, "/metrics").status == 200
            took.append((time.perf_counter() - begun) * 1000)
            time.sleep(0.05)
        cost = (cpu_of_process(monitor) - before) * 1000 / SCRAPES
    took.sort()
    clock = statistics.median(took)
    judge(
        f"a scrape of the monitor with {SLOTS} slots, {SCRAPES} times",
        f"CPU of the monitor: {cost:.1f} ms on average",
        f"until the client has it: {clock:.1f} ms, for the slowest twentieth {took[-SCRAPES // 20]:.1f} and more, at most {took[-1]:.1f}",
        figures=[(clock < SCRAPE_LIMIT, f"{clock:.1f} ms of less than {SCRAPE_LIMIT:g}")],
    )


def cpu_of_process(pid: int) -> float:
    """Return the CPU time of a process in seconds, with that of its threads that have ended, to a hundredth."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _ready(running: Running) -> int:
    with closing(board_of(running)) as board:
        return board.vitals.ready
