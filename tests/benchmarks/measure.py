"""What the benchmarks share: two servers on one project, wrk, CPU time, and intervals."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.places import find_servers

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).parent / "site"
UWSGI = Path(sys.prefix, "bin", "uwsgi")
UWSGI_OPTIONS = [
    "--master",
    "--lazy-apps",
    "--die-on-term",
    "--disable-logging",
    "--min-worker-lifetime",
    "0",
]
SERVER_CORE, CLIENT_CORE = "0", "1"
T_95 = {15: 2.145, 12: 2.201, 10: 2.262, 5: 2.776}  # two-sided, by the number of pairs


@dataclass(frozen=True)
class Running:
    """A server that serves the benchmark's site."""

    pid: int
    port: int

    @property
    def children(self) -> list[int]:
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server and its children that live."""
        return sum(cpu_seconds(pid) for pid in (self.pid, *self.children))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's main thread and of its other threads that live, to the nanosecond."""
    spent = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(ProcessLookupError, FileNotFoundError):  # a thread that has ended meanwhile
            spent += int(task.read_text().split()[0])
    return spent / 1e9


def resident_megabytes(pid: int, key: str = "Rss") -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1]) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def compiling() -> dict[str, str]:
    """Return an environment in which Python keeps compiled code, as it does on a host that serves a site."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def each_answers_once() -> Iterator[Callable[[int], int]]:
    """Give a function that suspends a worker which has answered, and returns how many have been suspended.

    The next request then waits for another worker, and the client takes no processor time from loads: a client that asks
    again and again keeps the workers busy which are ready while others still load.
    """
    suspended: set[int] = set()

    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    def suspend(pid: int) -> int:
        asleep = 0  # looks in a row: until then it may still close its database, whose lock it would keep
        while asleep < 2:
            asleep = asleep + 1 if state(pid) == "S" else 0
            time.sleep(0.0005)
        os.kill(pid, signal.SIGSTOP)
        while state(pid) != "T":
            time.sleep(0.0005)  # until then it may accept the next connection
        suspended.add(pid)
        return len(suspended)

    try:
        yield suspend
    finally:
        for pid in suspended:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def pinned(core: str) -> list[str]:
    return ["taskset", "--cpu-list", core] if shutil.which("taskset") else []


@contextmanager
def server(
    kind: str,
    *,
    workers: int,
    worker_class: str,
    pin: bool = False,
    arguments: Sequence[str] = (),
    guard: Sequence[str] = (),
) -> Iterator[Running]:
    """Run plain gunicorn (``plain``), the guarded server (``guarded``) or uWSGI (``uwsgi``) until the block ends.

    ``arguments`` are gunicorn's and for both, or uWSGI's; ``guard`` are options of the guard.
    """
    port = free_port()
    asgi = worker_class in ("asgi", "uvicorn_worker.UvicornWorker")
    common = ["--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", worker_class]
    app = "bench_site:asgi" if asgi else "bench_site:wsgi"
    if kind == "uwsgi":
        command = [
            str(UWSGI),
            *UWSGI_OPTIONS,
            "--http-socket",
            f"127.0.0.1:{port}",
            "--processes",
            str(workers),
        ]
        command += ["--virtualenv", sys.prefix, "--module", app, *arguments]
    elif kind == "plain":
        command = [sys.executable, "-m", "gunicorn", *common, "--log-level", "warning", *arguments, app]
    else:
        extra = ["--app", app, *guard, "--", "--log-level", "warning", *arguments]
        command = [sys.executable, "-m", "django_workerguard", "serve", *common, *extra]
    environ = {
        **compiling(),
        "DJANGO_SETTINGS_MODULE": "bench_settings",
        "PYTHONPATH": f"{ROOT}:{SITE}",
        "PYTHONHASHSEED": "0",
    }
    process = subprocess.Popen(
        [*(pinned(SERVER_CORE) if pin else []), *command],
        cwd=SITE,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield Running(process.pid, port)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(45)  # plain gunicorn's gevent workers can take all of the graceful timeout
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as probe:
                probe.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                if b" 200 " in probe.recv(64):
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise RuntimeError("the server did not answer")


@dataclass(frozen=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int


def wrk(port: int, *, seconds: int, connections: int = 8, pin: bool = False, path: str = "/") -> Load:
    url = f"http://127.0.0.1:{port}{path}"
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    told = subprocess.run(
        [*(pinned(CLIENT_CORE) if pin else []), *command], capture_output=True, text=True, check=True
    )
    text = told.stdout
    requests, took = re.search(r"(\d+) requests in ([\d.]+)s", text).groups()
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = (int(bad[1]) if bad else 0) + (sum(map(int, sockets.groups())) if sockets else 0)
    return Load(int(requests), float(took), _ms(text, "50"), _ms(text, "99"), errors)


def _ms(text: str, percentile: str) -> float:
    value, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of paired ratios with its 95 % interval."""
    mean = statistics.fmean(ratios)
    half = T_95.get(len(ratios), 2.0) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return mean, mean - half, mean + half


def board_of(running: Running) -> Board:
    """Return the scoreboard of a guarded server."""
    for found in find_servers(None, environ=os.environ, uid=os.geteuid()):
        if found.pid == running.pid:
            return found.board
    raise RuntimeError("the server has no scoreboard")


def judge(title: str, *lines: str, figures: Sequence[tuple[bool, str]]) -> None:
    """Report, and then hold the figures that the project has set itself: each with whether it was met."""
    report(title, *lines, *(f"{'met' if met else 'MISSED'}: {text}" for met, text in figures))
    missed = [text for met, text in figures if not met]
    assert not missed, f"{title}: {'; '.join(missed)}"


def report(title: str, *lines: str) -> None:
    print(f"\n== {title}")
    for line in lines:
        print(f"   {line}")
