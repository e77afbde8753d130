"""A web server and a Celery worker of one project: each reader shows both, and none takes one for the other."""

from __future__ import annotations

import json
import os
import signal

import jsonschema
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.process.harness import ROOT, Server
from tests.process.metrics import names
from tests.process.monitors import ask, places
from tests.process.pools import PoolWorker

pytestmark = pytest.mark.usefixtures("guinea_pages")

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/openmetrics-text; version=1.0.0"}
SCHEMA = json.loads((ROOT / "docs" / "reference" / "status.schema.json").read_text())


def check(server) -> int:
    return server.get("/checks", headers={"Accept": "application/json"}).status


@pytest.fixture
def server(serve):
    environ = {
        "WORKERGUARD_HEALTH_TOKEN": TOKEN,
        "WORKERGUARD_DASHBOARD_ACCESS": "guinea_access:anybody",
        "GUINEA_POOLS": "1",
    }
    return serve("--monitor-bind", "127.0.0.1:0", environ=environ, project_copy=True)


@pytest.fixture
def pool(server, tmp_path):
    worker = PoolWorker(
        tmp_path / "pool",
        "filesystem://",
        concurrency=2,
        options={"MIN_WORKER_LIFETIME": 0},
        project=server.project,
        run_dir=server.run_dir,
    )
    yield worker.start()
    worker.end()
    print(worker.log)


@pytest.mark.timeout(240)
def test_a_web_server_and_a_pool_of_one_project(server, pool, subtests):
    server.wait_ready()
    pool.wait_ready()
    with subtests.test("every reader shows the pool beside the web workers"):
        assert_every_reader_shows_the_pool_beside_the_web_workers(server, pool)
    with subtests.test("a pool that is stuck or gone fails the check and no probe of the web"):
        assert_a_pool_that_is_stuck_or_gone_fails_the_check_and_no_probe_of_the_web(server, pool)


def assert_every_reader_shows_the_pool_beside_the_web_workers(server: Server, pool: PoolWorker) -> None:
    pool.send("failing", [1])
    pool.wait("the failure counted", lambda: sum(s["errors_5xx"] for s in pool.status()["slots"]) == 1)

    told = json.loads(pool.workerguard("status", "--json").stdout)
    assert (told["kind"], told["ready"]) == ("web", 2)
    assert [(one["kind"], one["ready"]) for one in told["pools"]] == [("celery", 2)]
    alone = json.loads(pool.workerguard("status", "--json", "--celery").stdout)
    assert set(alone) == {"version", "pools"}
    for document in (told, alone):
        jsonschema.validate(document, SCHEMA)
    shown = pool.workerguard("status").stdout
    assert shown.index("REQUESTS") < shown.index("TASKS")

    scraped = server.get("/metrics/", headers=BEARER)
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_openmetrics(scraped.body)
        for sample in family.samples
    }
    name = pool.status()["name"]
    assert found["workerguard_ready_workers",] == 2
    assert found["workerguard_pool_ready_children", ("pool", name)] == 2
    failed = [value for key, value in found.items() if key[0] == "workerguard_pool_failed_tasks_total"]
    assert sum(failed) == 1
    (place,) = places(server)
    monitored = ask(place, "/metrics", BEARER).body
    assert names(monitored) == names(scraped.body), "as the metrics URL"
    assert [one["kind"] for one in json.loads(ask(place, "/status.json", BEARER).body)["pools"]] == ["celery"]
    assert "TASKS" in ask(place, "/", BEARER).body

    page = server.get("/guard/").body
    assert f"Celery: <bdi>{name}</bdi>" in page
    assert "<strong>2 of 2</strong> ready" in page
    assert "<dt>tasks</dt>" in page
    assert "<dt>requests</dt>" in page
    assert check(server) == 200

    # the child of a pool and the worker of a server have numbers of their own
    assert pool.workerguard("recycle", "1", "--celery", "--wait").returncode == 0
    pool.wait("slot 1 replaced", lambda: len(pool.events("ready")) == 3)
    assert server.events("retiring") == []
    assert pool.workerguard("recycle", "1", "--wait").returncode == 0
    assert len(pool.events("ready")) == 3


def assert_a_pool_that_is_stuck_or_gone_fails_the_check_and_no_probe_of_the_web(
    server: Server, pool: PoolWorker
) -> None:
    pool.begin()
    server.wait("the check is good", lambda _: check(server) == 200)
    os.kill(pool.pid, signal.SIGSTOP)
    server.wait("the check fails", lambda _: check(server) == 500)
    server.wait(
        "the dashboard tells", lambda _: "has shown no sign of life for" in server.get("/guard/").body
    )
    assert pool.workerguard("probe", "live").returncode == 0
    pool.end()
    assert check(server) == 500, "fewer than are expected"
    server.wait("its tiles go", lambda _: "Celery: " not in server.get("/guard/").body)
    assert json.loads(pool.workerguard("status", "--json").stdout)["pools"] == []
