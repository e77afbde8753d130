"""A line in gunicorn's access log for each request that was lost with its worker. Runs in the arbiter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from django_workerguard.scoreboard.in_hand import InHand

NO_STATUS = "000"  # nothing was answered


def write_access_lines(log: Any, lost: Iterable[InHand], now: int) -> None:
    """Write the lines in the site's own format, if gunicorn has an access log. ``now``: monotonic ns."""
    for request in lost:
        environ = {
            "REQUEST_METHOD": request.method,
            "RAW_URI": request.path,
            "PATH_INFO": request.path,
            "QUERY_STRING": "",
            "SERVER_PROTOCOL": "-",
        }
        response = SimpleNamespace(status=NO_STATUS, sent=None, headers=())
        took = timedelta(seconds=request.age(now))
        with contextlib.suppress(Exception):  # a logger class of the site's may want more
            log.access(response, SimpleNamespace(headers=()), environ, took)
