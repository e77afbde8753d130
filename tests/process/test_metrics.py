"""A scrape, of whichever worker, tells of all of them; counters outlive workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

TOKEN = "a-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ALERTS = Path(__file__).resolve().parents[2] / "docs" / "prometheus" / "alerts.yml"


def scrape(server, *, openmetrics=False, path="/metrics/"):
    reply = server.get(path, headers={**BEARER, **({"Accept": OPENMETRICS} if openmetrics else {})})
    assert reply.status == 200, reply.body
    assert ("openmetrics" in reply.headers["content-type"]) is openmetrics
    parse = parse_openmetrics if openmetrics else parse_text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(reply.body)
        for sample in family.samples
    }, reply


@pytest.fixture
def server(serve):
    server = serve(environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN}, workers=3)
    server.wait_ready()
    return server


def test_every_worker_class_answers_for_the_whole_server(serve, worker_class):
    server = serve("-k", worker_class, environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN})
    server.wait_ready()
    for openmetrics in (False, True):
        found, _ = scrape(server, openmetrics=openmetrics)
        assert found["workerguard_workers", ("state", "ready")] == 2
        assert found["workerguard_ready_workers",] == found["workerguard_target_workers",] == 2
        assert found["workerguard_load_duration_seconds_bucket", ("le", "+Inf")] == 2
        assert {dict(key[1:])["slot"] for key in found if key[0] == "workerguard_requests_total"} == {
            "1",
            "2",
        }


def test_any_worker_tells_the_same_and_counters_survive_the_worker(server):
    server.statuses(20)
    seen = {}
    while len(seen) < 2:
        found, reply = scrape(server)
        seen[reply.pid] = found
    before = found
    victim = server.slot(1)["pid"]
    os.kill(victim, signal.SIGKILL)
    server.wait_event("ready", lambda event: event["slot"] == 1 and event["pid"] != victim)
    after, _ = scrape(server, openmetrics=True)
    for key, value in before.items():
        if key[0].endswith("_total"):
            assert after[key] >= value, key
    assert after["workerguard_exits_total", ("cause", "sigkill")] == 1
    assert after["workerguard_slot_exits_total", ("slot", "1")] == 1
    assert after["workerguard_load_duration_seconds_count",] == 4


def test_causes_and_rules_are_counted(serve, faults):
    server = serve(environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN})
    server.wait_ready()
    faults.set("ready", "memory", 1)
    os.kill(server.pids()[0], signal.SIGKILL)
    server.wait_event("load-failed")
    server.wait_ready()
    server.signal(signal.SIGHUP)
    server.wait_event("reloaded")
    server.wait("nobody is leaving", lambda status: sum(slot["exits"] for slot in status["slots"]) == 4)
    found, _ = scrape(server)
    assert found["workerguard_load_failures_total", ("cause", "memory")] == 1
    assert found["workerguard_exits_total", ("cause", "load-failed")] == 1
    assert found["workerguard_exits_total", ("cause", "asked")] == 2
    assert found["workerguard_recycles_total", ("rule", "reload")] == 2
    assert found["workerguard_generation",] == 2


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"}],
)
def test_who_may_not_see_it_sees_nothing(server, headers):
    reply = server.get("/metrics/", headers=headers)
    assert reply.status == 403
    assert "workerguard_" not in reply.body


def test_without_a_token_nobody_has_it(serve):
    server = serve()
    server.wait_ready()
    for headers in ({}, {"Authorization": "Bearer "}):
        assert server.get("/metrics/", headers=headers).status == 403


def test_in_the_projects_own_registry_in_multiprocess_mode(serve, tmp_path):
    shared = tmp_path / "multiproc"
    shared.mkdir()
    server = serve(environ={"PROMETHEUS_MULTIPROC_DIR": str(shared)}, workers=3)
    server.wait_ready()
    server.statuses(10, "/counted")
    found, _ = scrape(server, path="/own-metrics")
    assert found["guinea_counted_total",] == 10
    assert found["workerguard_ready_workers",] == 3


@pytest.mark.needs("promtool")
def test_prometheus_itself_reads_the_alerts():
    told = subprocess.run(
        [shutil.which("promtool"), "check", "rules", ALERTS], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.needs("promtool")
def test_prometheus_has_nothing_against_the_names(server):
    scraped = server.get("/metrics/", headers=BEARER)
    told = subprocess.run(
        [shutil.which("promtool"), "check", "metrics"], input=scraped.body, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.needs("promtool")
def test_the_alerts_fire_when_they_should(tmp_path):
    rules = yaml.safe_load(ALERTS.read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]  # a case would have to repeat them word by word
    bare, cases = tmp_path / "rules.yml", tmp_path / "cases.yml"
    bare.write_text(yaml.safe_dump(rules))
    cases.write_text(CASES.format(rules=bare))
    told = subprocess.run([shutil.which("promtool"), "test", "rules", cases], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


# four workers: one slot fails; sixty recycles in ten minutes are much for two workers, and little for sixteen
CASES = """
rule_files: ["{rules}"]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'workerguard_ready_workers{{instance="a"}}', values: "0x20"}}
      - {{series: 'workerguard_quorum_workers{{instance="a"}}', values: "1x20"}}
      - {{series: 'workerguard_findings{{instance="a",code="below-quorum",severity="critical"}}', values: "1x20"}}
      - {{series: 'workerguard_findings{{instance="a",code="suspect",severity="warning"}}', values: "1x20"}}
      - {{series: 'workerguard_target_workers{{instance="a"}}', values: "2x40"}}
      - {{series: 'workerguard_target_workers{{instance="b"}}', values: "16x40"}}
      - {{series: 'workerguard_recycles_total{{instance="a",rule="max-requests"}}', values: "0+6x40"}}
      - {{series: 'workerguard_recycles_total{{instance="b",rule="max-requests"}}', values: "0+6x40"}}
      - {{series: 'workerguard_pool_ready_children{{instance="a",pool="celery@a"}}', values: "3x20"}}
      - {{series: 'workerguard_pool_target_children{{instance="a",pool="celery@a"}}', values: "4x20"}}
    alert_rule_test:
      - alertname: WorkerguardBelowQuorum
        eval_time: 5m
        exp_alerts: [{{exp_labels: {{severity: critical, instance: a}}}}]
      - alertname: WorkerguardCriticalFinding
        eval_time: 5m
        exp_alerts: [{{exp_labels: {{severity: critical, instance: a, code: below-quorum}}}}]
      - alertname: WorkerguardRecyclesTooOften
        eval_time: 30m
        exp_alerts: [{{exp_labels: {{severity: warning, instance: a, rule: max-requests}}}}]
      - alertname: WorkerguardPoolDegraded
        eval_time: 10m
        exp_alerts: [{{exp_labels: {{severity: warning, instance: a, pool: "celery@a"}}}}]
"""
