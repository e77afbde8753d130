"""statsd receives what gunicorn's own arbiter would send it."""

from __future__ import annotations

import pytest

from django_workerguard.server.statsd_gauges import Gauges


class Log:
    """gunicorn's logger, as far as it is used: statsd's takes the metric from ``extra``."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int, str]] = []

    def debug(self, _text: str, *_values: object, extra: dict) -> None:
        self.sent.append((extra["metric"], extra["value"], extra["mtype"]))


class Listener:
    """A listener with connections that wait; -1 and None where the kernel does not say."""

    def __init__(self, waiting: int | None) -> None:
        self.waiting = waiting

    def get_backlog(self) -> int | None:
        return self.waiting


def test_the_number_of_workers_is_sent_when_it_changes():
    log, gauges = Log(), Gauges()
    for workers in (2, 2, 3, 3, 2):
        gauges.send(log, workers=workers, listeners=None)
    assert log.sent == [("gunicorn.workers", number, "gauge") for number in (2, 3, 2)]


@pytest.mark.parametrize(("waiting", "sent"), [((3, 4), 7), ((-1, 4), 4), ((None,), 0), ((), 0)])
def test_the_backlog_of_all_listeners_is_sent_each_time(waiting, sent):
    log, gauges = Log(), Gauges()
    for _ in range(2):
        gauges.send(log, workers=1, listeners=[Listener(count) for count in waiting])
    assert log.sent.count(("gunicorn.backlog", sent, "histogram")) == 2
