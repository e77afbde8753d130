"""A scrape, of whichever worker, tells of all of them; counters outlive workers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.process.commands import workerguard
from tests.process.metrics import ALERTS, BEARER, DOCS, TOKEN, names

pytestmark = pytest.mark.usefixtures("guinea_pages")

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
WEB = 'instance="web1:8000",job="django"'
POOL = f'{WEB},pool="celery@web1"'


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
    server.wait("the board counts it", lambda status: status["tallies"]["exits"]["sigkill"] == 1)
    after, _ = scrape(server, openmetrics=True)
    for key, value in before.items():
        if key[0].endswith("_total"):
            assert after[key] >= value, key
    assert after["workerguard_exits_total", ("cause", "sigkill")] == 1
    assert after["workerguard_slot_exits_total", ("slot", "1")] == 1
    assert after["workerguard_load_duration_seconds_count",] == 4


def test_the_command_prints_what_a_worker_answers_and_needs_no_worker(serve, faults):
    server = serve(environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN})
    server.wait_ready()

    def printed() -> str:
        told = workerguard("metrics", "--name", "guinea", run_dir=server.run_dir)
        assert told.returncode == 0, told.stderr
        return told.stdout

    _, reply = scrape(server)
    assert names(printed()) == names(reply.body)
    faults.set("ready", "memory")
    for pid in server.pids():
        os.kill(pid, signal.SIGKILL)
    server.wait("nobody is loaded", lambda status: status["ready"] == 0)
    assert "workerguard_ready_workers 0.0" in printed().splitlines()


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
    promtool("check", "rules", ALERTS)


def promtool(*arguments, stdin=None):
    told = subprocess.run(
        [shutil.which("promtool"), *map(str, arguments)], input=stdin, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.needs("promtool")
def test_prometheus_itself_finds_nothing_to_mend_in_the_metrics(server):
    promtool("check", "metrics", stdin=scrape(server)[1].body)


# For each rule: series at one sample a minute, the minute in which it has not fired yet, one in which it has, and
# the labels that it then has beside its own and its severity.
FIRES = {
    "WorkerguardBelowQuorum": (
        {"ready_workers": "2 1x9", "quorum_workers": "2x10"},
        ("1m", "2m"),
        {"job": "django"},
    ),
    "WorkerguardUnreachable": ({"up": "1 0x9"}, ("1m", "2m"), {"job": "django"}),
    "WorkerguardCriticalFinding": (
        {
            'findings{code="unloaded",severity="critical",%s}': "0 1x9",
            'findings{code="below-quorum",severity="critical",%s}': "0 1x9",
            'findings{code="frozen",severity="warning",%s}': "0 1x9",
        },
        ("1m", "2m"),
        {"job": "django", "code": "unloaded"},
    ),
    "WorkerguardDegraded": (
        {"ready_workers": "4 3x20", "target_workers": "4x21"},
        ("5m", "6m"),
        {"job": "django"},
    ),
    "WorkerguardLoadFailing": ({'load_failures_total{cause="memory",%s}': "0x10 4x10"}, ("9m", "11m"), {}),
    "WorkerguardFrozen": ({"frozen": "0 1x9"}, ("1m", "2m"), {"job": "django"}),
    "WorkerguardReloadRefused": ({"reload_refused": "0 1x9"}, ("1m", "2m"), {"job": "django"}),
    "WorkerguardMoldNotReady": ({"mold_ready": "1 0x20"}, ("10m", "11m"), {"job": "django"}),
    "WorkerguardOutOfMemory": (
        {'exits_total{cause="out-of-memory",%s}': "0x10 1x10"},
        ("10m", "12m"),
        {},
    ),
    "WorkerguardSlotFails": (
        {'responses_5xx_total{slot="2",%s}': "0+30x30", 'requests_total{slot="2",%s}': "0+100x30"},
        ("5m", "12m"),
        {"job": "django", "slot": "2"},
    ),
    # 4 workers, and 1 replacement a minute: each every four minutes
    "WorkerguardRecyclesTooOften": (
        {'recycles_total{rule="max-requests",%s}': "0+1x40", "target_workers": "4x40"},
        ("10m", "30m"),
        {"rule": "max-requests"},
    ),
    "WorkerguardBacklog": ({"listen_backlog_connections": "0 65x9"}, ("2m", "3m"), {"job": "django"}),
    "WorkerguardArbiterSilent": ({"arbiter_silence_seconds": "0 31x9"}, ("0m", "1m"), {"job": "django"}),
    "WorkerguardPoolDegraded": (
        {"pool_ready_children": "4 3x20", "pool_target_children": "4x21"},
        ("5m", "6m"),
        {"job": "django", "pool": "celery@web1"},
    ),
    "WorkerguardPoolLoadFailing": (
        {'pool_load_failures_total{cause="memory",%s}': "0x10 4x10"},
        ("9m", "11m"),
        {"pool": "celery@web1"},
    ),
    "WorkerguardPoolSilent": (
        {"pool_silence_seconds": "0 31x9"},
        ("0m", "1m"),
        {"job": "django", "pool": "celery@web1"},
    ),
}
# Another way to the same alert.
FIRES_TOO = {
    "WorkerguardOutOfMemory": (
        {
            'exits_total{cause="out-of-memory",%s}': "0x20",
            'load_failures_total{cause="out-of-memory",%s}': "0x10 1x10",
        },
        ("10m", "12m"),
        {},
    ),
}
# The same rules, and what must not wake anybody however long it lasts.
STAYS_QUIET = {
    "WorkerguardBelowQuorum": {"ready_workers": "2x90", "quorum_workers": "2x90"},
    # the same 1 replacement a minute, over 8 workers: each every eight minutes
    "WorkerguardRecyclesTooOften": {
        'recycles_total{rule="max-requests",%s}': "0+1x90",
        "target_workers": "8x90",
    },
    "WorkerguardLoadFailing": {'load_failures_total{cause="memory",%s}': "0x10 3x80"},
    "WorkerguardMoldNotReady": {"mold_ready": "1x10 0x9 1x70", "mold_unfit": "0x90"},
    "WorkerguardSlotFails": {
        'responses_5xx_total{slot="2",%s}': "0+10x90",
        'requests_total{slot="2",%s}': "0+100x90",
    },
}


def rules():
    return {rule["alert"]: rule for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]}


def as_input(alert, series):
    """The series as promtool wants them, with the labels of a scrape."""
    labels = POOL if "Pool" in alert else WEB
    return [{"series": full_name(name, labels), "values": f"{values}"} for name, values in series.items()]


def full_name(name, labels):
    if name == "up":
        return f"up{{{labels}}}"
    return f"workerguard_{name % labels if '%s' in name else f'{name}{{{labels}}}'}"


def judged(tmp_path, *tests):
    told = tmp_path / "tests.json"  # JSON is YAML
    told.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "30s", "tests": tests}))
    promtool("test", "rules", told)


def test_every_rule_is_under_test():
    assert set(rules()) == set(FIRES)


@pytest.mark.needs("promtool")
@pytest.mark.parametrize(("alert", "how"), [*FIRES.items(), *FIRES_TOO.items()])
def test_a_rule_fires_when_it_should_and_not_before(tmp_path, alert, how):
    series, (before, after), labels = how
    rule = rules()[alert]
    expected = {**rule["labels"], "instance": "web1:8000", **labels, "alertname": alert}
    judged(
        tmp_path,
        {
            "interval": "1m",
            "input_series": as_input(alert, series),
            "promql_expr_test": [
                {
                    "expr": f'count by (alertname) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": before,
                    "exp_samples": [],
                },
                {
                    "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}} == 1',
                    "eval_time": after,
                    "exp_samples": [
                        {
                            "labels": as_labels(expected),
                            "value": 1,
                        }
                    ],
                },
            ],
        },
    )


def as_labels(labels):
    inside = ",".join(f'{name}="{value}"' for name, value in {**labels, "alertstate": "firing"}.items())
    return f"ALERTS{{{inside}}}"


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("alert", STAYS_QUIET)
def test_a_rule_leaves_people_alone(tmp_path, alert):
    quiet = {"eval_time": "80m", "alertname": alert, "exp_alerts": []}
    judged(
        tmp_path,
        {
            "interval": "1m",
            "input_series": as_input(alert, STAYS_QUIET[alert]),
            "alert_rule_test": [quiet],
        },
    )


@pytest.mark.needs("promtool")
def test_an_autoscaler_gets_the_share_of_the_workers_that_are_busy(tmp_path):
    """What the Prometheus adapter and KEDA ask, as the how-to configures them, of two pods."""
    text = (DOCS / "howto" / "scaling.md").read_text()
    adapter, autoscaler, keda = (
        yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    (rule,), (metric,) = adapter["rules"]["custom"], autoscaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    (trigger,) = keda["spec"]["triggers"]
    per_pod = (
        rule["metricsQuery"]
        .replace("<<.Series>>", "workerguard_utilisation_ratio")
        .replace("<<.LabelMatchers>>", 'namespace="default",pod=~"mysite-1|mysite-2"')
        .replace("<<.GroupBy>>", "pod")
    )
    series = [
        {
            "series": f'workerguard_utilisation_ratio{{namespace="default",pod="{pod}"}}',
            "values": f"{share}x9",
        }
        for pod, share in (("mysite-1", 0.75), ("mysite-2", 0.5), ("another", 1))
    ]
    expected = {
        rule["seriesQuery"] + " == 0.75": [
            ('workerguard_utilisation_ratio{namespace="default",pod="mysite-1"}', 0.75)
        ],
        per_pod: [('{pod="mysite-1"}', 0.75), ('{pod="mysite-2"}', 0.5)],
        trigger["metadata"]["query"]: [("{}", 1.25)],
    }
    tests = [
        {
            "expr": query,
            "eval_time": "5m",
            "exp_samples": [{"labels": of, "value": value} for of, value in samples],
        }
        for query, samples in expected.items()
    ]
    judged(tmp_path, {"interval": "1m", "input_series": series, "promql_expr_test": tests})
