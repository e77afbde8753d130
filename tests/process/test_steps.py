"""A step of the arbiter that fails at every tick stops neither the healing nor a stop, and no signal is lost by it."""

from __future__ import annotations

import signal

import pytest

BROKEN = "def broken(self, *arguments, **more):\n    raise RuntimeError('a broken step')\n"
MEASURE = f"from django_workerguard.arbiter.tracker import Tracker\n{BROKEN}Tracker.measure = broken\n"
PATIENCE = (
    "import django_workerguard.server.arbiter as arbiter\n" + BROKEN + "arbiter.next_deadline = broken\n"
)
REQUESTS = f"from django_workerguard.arbiter.control_socket import ControlSocket\n{BROKEN}ControlSocket.requests = broken\n"
BURY_THE_FIRST = """\
from django_workerguard.arbiter.tracker import Tracker
real = Tracker.buried
def buried(self, seat, *arguments):
    if self.fleet.workers[seat].slot == 1:
        raise RuntimeError('a broken step')
    real(self, seat, *arguments)
Tracker.buried = buried
"""
SIGNAL = """\
from django_workerguard.server.signals import Signals
real, tries = Signals.scale, []
def scale(self, *arguments):
    tries.append(1)
    if len(tries) < 3:
        raise MemoryError('a broken step')
    return real(self, *arguments)
Signals.scale = scale
"""


@pytest.mark.parametrize(
    "step",
    [MEASURE, PATIENCE, REQUESTS, BURY_THE_FIRST],
    ids=["measure", "patience", "requests", "the end of another worker"],
)
def test_a_step_that_fails_each_time_does_not_stop_the_healing(step, serve, tmp_path):
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(step)
    server = serve("-c", str(conf), "--worker-reload-mercy", "2s", workers=3)
    server.wait_ready()
    if step is BURY_THE_FIRST:
        server.kill_worker(1)
    victim = server.kill_worker(2)
    server.wait_log("a broken step")

    def has_healed(status: dict) -> bool:
        slot = status["slots"][1]
        return slot["state"] == "ready" and slot["pid"] != victim

    server.wait("slot 2", has_healed)
    assert server.stop() == 0


def test_a_signal_whose_handler_fails_is_handled_again(serve, tmp_path):
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(SIGNAL)
    server = serve("-c", str(conf))
    server.wait_ready()
    server.signal(signal.SIGTTIN)
    server.wait("a third worker", lambda status: status["ready"] == 3)
    assert server.log.count("MemoryError: a broken step") == 2
