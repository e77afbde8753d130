"""Memory for one load: in a real cgroup, what does not fit waits, and nothing is killed."""

from __future__ import annotations

import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest

from django_workerguard.errors import ExitCode
from django_workerguard.report.findings import assess
from tests.process.commands import order
from tests.process.limits import limit_file
from tests.process.room import MB, inside, leave, oom_kills, pids

PEAK, KEPT = 200, 10  # MB
ONE_BY_ONE = {"GUINEA_WEIGHT": f"{PEAK} {KEPT} 0.3"}
PATIENT = ("--load-retry-max-delay", "30")

pytestmark = pytest.mark.needs("root")


def most_at_once(events) -> int:
    """Return how many loads were in progress at the same time."""
    changes = [{"spawned": 1, "ready": -1, "load-failed": -1}.get(event["event"], 0) for event in events]
    return max(accumulate(changes))


def test_with_room_for_one_load_three_killed_workers_come_back_one_by_one(serve, memory_cgroup):
    server = serve(
        *("--load-concurrency", "4"), *PATIENT, workers=4, environ=ONE_BY_ONE, prefix=inside(memory_cgroup)
    )
    server.wait_ready()
    leave(server, memory_cgroup, PEAK * MB)
    before = len(server.events())

    killed = server.pids()[1:]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    server.wait("three others", lambda status: status["ready"] == 4 and not {*killed} & pids(status))

    since = server.events()[before:]
    assert oom_kills(memory_cgroup) == 0
    assert most_at_once(since) == 1
    waited = [event for event in since if event["event"] == "no-room"]
    assert {event["slot"] for event in waited} <= {2, 3, 4}
    assert waited, "two of them did not fit beside the first"
    for event in waited:
        assert event["needed_bytes"] - event["available_bytes"] == event["missing_bytes"] > 0
        assert PEAK * MB < event["needed_bytes"] < (PEAK + 60) * MB
    assert "no-room" not in [finding.code for finding in assess(server.status())]
    assert server.stop() == 0


def test_a_reload_without_room_says_what_is_missing_and_goes_on_when_there_is_room(serve, memory_cgroup):
    server = serve(*PATIENT, environ=ONE_BY_ONE, prefix=inside(memory_cgroup))
    server.wait_ready()
    leave(server, memory_cgroup, PEAK // 2 * MB)

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(order, server, "reload", "--wait=50")
        status = server.wait(
            "a finding", lambda status: "no-room" in [finding.code for finding in assess(status)]
        )
        limit_file(memory_cgroup).write_text(str(4096 * MB))  # before it is tried even so
        outcome = asked.result()
    assert outcome.returncode == ExitCode.OK, outcome
    shown = outcome.stdout
    assert re.search(r"no-room +slot=1 needed_bytes=\d+ available_bytes=\d+ missing_bytes=\d+", shown)
    waits = [slot for slot in status["slots"] if slot["no_room"]]
    assert [slot["state"] for slot in status["slots"]] == ["ready", "ready"], "the old ones serve"
    assert 0 < waits[0]["no_room"]["missing_bytes"] < waits[0]["no_room"]["needed_bytes"]
    assert 0 < waits[0]["next_try_in"] <= 10
    assert oom_kills(memory_cgroup) == 0
    assert not any(slot["no_room"] for slot in server.status()["slots"])
    assert server.stop() == 0


def test_of_the_first_loads_none_is_killed_because_all_begin_at_once(serve, memory_cgroup):
    limit_file(memory_cgroup).write_text(str(480 * MB))
    server = serve(
        *("--load-concurrency", "4"), *PATIENT, workers=4, environ=ONE_BY_ONE, prefix=inside(memory_cgroup)
    )
    server.wait_ready()
    assert oom_kills(memory_cgroup) == 0
    assert most_at_once(server.events()) == 1
    assert not server.events("load-failed")
    assert server.stop() == 0


def test_the_first_load_of_an_empty_server_does_not_wait(serve, memory_cgroup):
    server = serve("--memory-margin", "100G", *PATIENT, prefix=inside(memory_cgroup), workers=1)
    server.wait_ready()
    server.kill_worker()
    server.wait_event("ready", count=2)
    assert not server.events("no-room")
    assert server.stop() == 0


def test_the_number_of_workers_follows_the_cpus_and_the_limit_of_memory(serve, memory_cgroup):
    limit_file(memory_cgroup).write_text(str(4000 * MB))
    server = serve("-w", "auto", *PATIENT, workers=0, prefix=inside(memory_cgroup))
    cpus = len(os.sched_getaffinity(0))
    wanted = min(2 * cpus, 16)
    server.wait_ready(wanted)
    assert server.events("started")[0]["target"] == 1, "until the first load is measured"
    assert server.events("scaled")[0]["by"] == "workers=auto"
    server.wait_log(
        f"workers=auto: {wanted} workers: {cpus} CPUs can keep {2 * cpus} workers busy; the memory of"
    )

    status = server.status()["limits"]
    used = status["memory_bytes"] - status["memory_available_bytes"]
    limit_file(memory_cgroup).write_text(str(used + 40 * MB))
    scaled = server.wait_event("scaled", count=2)
    assert 1 <= scaled["target"] < wanted
    server.wait("fewer workers", lambda status: len(status["slots"]) == status["ready"] == scaled["target"])
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    assert oom_kills(memory_cgroup) == 0
    limit_file(memory_cgroup).write_text(str(4000 * MB))
    server.wait_ready(wanted)
    assert server.stop() == 0
