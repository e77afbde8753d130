"""A process that the kernel does not end, as in a read that hangs, holds up neither a start nor a check, and keeps no slot empty.

Here it is traced.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.scoreboard.layout import Seat, SeatKind
from tests.process.harness import TIMEOUT, Server
from tests.process.molds import mold_of
from tests.process.short_starts import MANAGE, SERVE
from tests.process.tracers import traced

HANGS = """
import os, time
from pathlib import Path

def hang():
    Path("new").write_text(str(os.getpid()))
    os.rename("new", "hanging")
    time.sleep(3600)
"""
# the process that reads them for the server is the first one, or the second one after manage.py's
SETTINGS = """
from pathlib import Path
import hangs
readings = Path("readings")
readings.write_text((readings.read_text() if readings.exists() else "") + "x")
if len(readings.read_text()) == {number}:
    hangs.hang()
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("command", "number", "arguments", "code"),
    [
        (SERVE, 1, ("--print-config",), ExitCode.OK),
        (MANAGE, 2, ("--print-config",), ExitCode.OK),
        (SERVE, 0, ("--check", "--load-probe", "hangs.hang"), ExitCode.LOAD_FAILED),
    ],
    ids=["the settings", "the settings, read ahead", "a check"],
)
def test_it_ends_all_the_same(project, command, number, arguments, code):
    project.write("hangs.py", HANGS)
    project.add_setting(SETTINGS.format(number=number))
    hanging = project.path / "hanging"
    with subprocess.Popen(
        [sys.executable, *command, "--bind", "127.0.0.1:0", "--load-timeout", "12s", *arguments],
        cwd=project.path,
        env=project.environ,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not hanging.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline, "nothing hangs"
                time.sleep(0.02)
            with traced(int(hanging.read_text())):
                assert process.wait(60) == code
        finally:
            process.kill()


@pytest.mark.timeout(120)
def test_a_reload_goes_on_without_the_process_that_reads_the_settings(serve):
    server = serve("--load-timeout", "10s", project_copy=True, workers=1)
    server.wait_ready()
    settings = server.project / "guinea_settings.py"
    whole, reading = settings.read_text(), server.project / "reading"
    settings.write_text(
        f"import os, time\nfrom pathlib import Path\n\nPath({str(reading)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(3600)\n"
    )
    server.signal(signal.SIGHUP)
    server._poll("the settings are read", lambda: reading.exists() and reading.read_text(), TIMEOUT)
    with traced(int(reading.read_text())):
        refused = server.wait_event("reload-refused")
        assert "the kernel does not end process" in refused["reason"]
        settings.write_text(whole)
        server.wait_event("reloaded")
    assert server.stop() == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("surge", ["1", "0"])
def test_a_slot_whose_worker_the_kernel_does_not_end_gets_another_one(surge, serve):
    server = serve("--surge", surge, "--", "--timeout", "5")
    server.wait_ready()
    pid = server.pids()[0]
    with traced(pid):
        server.wait(
            "another worker",
            lambda status: status["ready"] == 2 and pid not in [slot["pid"] for slot in status["slots"]],
        )
        server.wait_event("not-ended", lambda event: event["pid"] == pid)
        assert server.statuses(10) == {200: 10}
    server.wait_event("exited", lambda event: event["pid"] == pid)
    assert server.status()["ready"] == 2
    assert server.stop() == 0


@pytest.mark.timeout(120)
def test_a_stop_does_not_wait_for_a_worker_that_the_kernel_does_not_end(serve):
    server = serve("--", "--timeout", "5")
    server.wait_ready()
    pid = server.pids()[0]
    with traced(pid):
        server.wait_event("not-ended", lambda event: event["pid"] == pid)
        server.signal(signal.SIGTERM)
        assert server.wait_exit(timeout=30) == 0  # its mercy is a minute
    assert f"still running, although killed: pid {pid}" in server.log


@pytest.mark.timeout(120)
def test_a_mold_that_the_kernel_does_not_end_is_followed_by_another_one(serve):
    server = serve("--load", "mold")
    server.wait_ready()
    mold = mold_of(server)["pid"]
    with traced(mold):
        killed = server.kill_worker(1)
        server.wait(
            "a worker of another mold",
            lambda status: (
                status["ready"] == 2
                and status["mold"]["pid"] != mold
                and killed not in [slot["pid"] for slot in status["slots"]]
            ),
        )
        server.wait_event("not-ended", lambda event: event["pid"] == mold)
    server.wait_event("exited", lambda event: event["pid"] == mold)
    assert server.stop() == 0


def stand_ins(server: Server) -> set[int]:
    with server.board() as board:
        bases = [board.layout.seat(seat) for seat in range(board.layout.seats)]
        kinds = {board.words[base + Seat.PID]: board.words[base + Seat.KIND] for base in bases}
    return {pid for pid, kind in kinds.items() if pid and kind == SeatKind.STAND_IN}


@pytest.mark.timeout(120)
def test_a_stand_in_that_the_kernel_does_not_end_is_followed_by_another_one(serve, faults):
    server = serve("--stand-in-after", "200ms")
    server.wait_ready()
    (first,) = stand_ins(server)
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.wait("the stand-in", lambda status: status["stand_in"])
    with traced(first):
        faults.clear()
        server.wait_ready()
        server.wait("another stand-in", lambda _: len(stand_ins(server)) == 2)
        faults.set("ready", "memory")
        for pid in server.pids():
            os.kill(pid, signal.SIGKILL)
        server.wait("the other one", lambda status: status["stand_in"])
        assert server.get("/").status == 503
        assert first in stand_ins(server), "the kernel has not ended it"
    server.wait("its end", lambda status: status["stand_in"] and first not in stand_ins(server))
    assert server.get("/").status == 503
    faults.clear()
    server.wait_ready()
    assert server.stop() == 0
