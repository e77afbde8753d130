"""What Python waits for before a process ends."""

from __future__ import annotations

import multiprocessing
import signal

import pytest

from django_workerguard.worker import shutdown


class Unreadable(multiprocessing.get_context("fork").Process):
    """A project's own class of processes, with a fault."""

    @property
    def daemon(self):
        raise RuntimeError("no such attribute yet")


@pytest.fixture
def started(request):
    process = request.param(target=signal.pause, name="importer")
    process.start()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize(
    ("started", "names"),
    [(multiprocessing.get_context("fork").Process, ["importer"]), (Unreadable, [])],
    ids=["a process", "a process that raises"],
    indirect=["started"],
)
def test_a_process_that_raises_keeps_nothing_from_its_end(started, names):
    assert shutdown._waited_for() == names
