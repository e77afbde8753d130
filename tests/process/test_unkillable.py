"""Processes that the kernel does not end although they are killed, as in a read that hangs: here they are traced."""

from __future__ import annotations

import pytest

from tests.process.limits import traced
from tests.process.molds import mold_of


@pytest.mark.timeout(120)
@pytest.mark.parametrize("surge", ["1", "0"])
def test_a_slot_whose_worker_the_kernel_does_not_end_gets_another_one(surge, serve):
    server = serve("--surge", surge, "--", "--timeout", "2")
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
