"""What systemd shows of a server in a line."""

from __future__ import annotations

import pytest

from django_workerguard.server.sd_notify import ServerStatus, Systemd, changes


def standing(**more: object) -> ServerStatus:
    return ServerStatus(
        **{"ready": 4, "target": 4, "reached": True, "reloading": False, "stopping": False, **more}
    )


def test_an_arbiter_that_another_one_succeeds_hands_the_service_on():
    before = standing(successor=77)
    assert changes(before, standing(stopping=True, successor=77), monotonic_us=1) == ["MAINPID=77"]
    leaving = standing(stopping=True, successor=77)
    assert changes(leaving, standing(ready=0, stopping=True, successor=77), monotonic_us=1) == []
    assert "STOPPING=1" in changes(standing(), standing(stopping=True), monotonic_us=1)


@pytest.mark.parametrize(
    ("environ", "warns"),
    [
        ({}, False),
        ({"WATCHDOG_PID": "10"}, False),
        ({"WATCHDOG_PID": "9", "GUNICORN_PID": "9"}, False),
        ({"WATCHDOG_PID": "9"}, True),
        ({"SYSTEMD_EXEC_PID": "9"}, True),
        ({"SYSTEMD_EXEC_PID": "10"}, False),
    ],
)
def test_a_process_that_systemd_does_not_listen_to_says_so(environ, warns):
    warning = Systemd({"NOTIFY_SOCKET": "/run/x", **environ}, 10).warning
    assert ("NotifyAccess=all" in warning) is warns
    assert Systemd(environ, 10).warning == "", "without a socket there is nothing to warn of"


@pytest.mark.parametrize(
    ("ready", "frozen", "why", "text"),
    [
        (4, False, "", "4 of 4 workers ready"),
        (4, False, "the load failed: E", "4 of 4 workers ready"),
        (3, False, "the load failed: E", "3 of 4 workers ready; the load failed: E"),
        (
            4,
            True,
            "the load failed: E",
            "4 of 4 workers ready; frozen: the new code cannot load, the old code continues to serve; the load failed: E",
        ),
    ],
)
def test_what_is_wrong_is_said_even_where_all_are_ready(ready, frozen, why, text):
    standing = ServerStatus(
        ready=ready, target=4, reached=True, reloading=False, stopping=False, why=why, frozen=frozen
    )
    assert standing.text == text
