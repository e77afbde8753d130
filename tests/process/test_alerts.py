"""The alert rules in a real Prometheus that scrapes a real server: each fires in its situation, none in a healthy one.

A minute of the rules lasts two seconds here. What fires when to the minute is in `test_metrics`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.process.harness import WaitError
from tests.process.limits import limit_file
from tests.process.metrics import ALERTS, TOKEN
from tests.process.pools import PoolWorker, free_port
from tests.process.room import inside

FASTER = 30
SILENCE = 6  # seconds, in place of 30
SECONDS = {"s": 1, "m": 60}

pytestmark = [pytest.mark.needs("promtool"), pytest.mark.usefixtures("guinea_pages")]


def faster(rules: str) -> str:
    """Divide every duration in the rules by FASTER, and multiply every rate that they compare with by it."""

    def shorter(match) -> str:
        return f"{match[1]}{int(match[2]) * SECONDS[match[3]] * 1000 // FASTER}ms"

    rules = re.sub(r"(for: |\[)(\d+)([sm])", shorter, rules)
    rules = re.sub(r"(silence_seconds > )30", rf"\g<1>{SILENCE}", rules)
    return rules.replace("/ 300", f"/ {300 // FASTER}")


class Prometheus:
    """A Prometheus with the documented rules, and one target."""

    def __init__(self, directory: Path, target: str, path: str) -> None:
        directory.mkdir()
        (directory / "alerts.yml").write_text(faster(ALERTS.read_text()))
        (directory / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {
                        "scrape_interval": "1s",
                        "scrape_timeout": "1s",
                        "evaluation_interval": "250ms",
                    },
                    "rule_files": ["alerts.yml"],
                    "scrape_configs": [
                        {
                            "job_name": "django",
                            "metrics_path": path,
                            "authorization": {"credentials": TOKEN},
                            "static_configs": [{"targets": [target]}],
                        }
                    ],
                }
            )
        )
        self.port = free_port()
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                (
                    *(str(shutil.which("prometheus")), f"--config.file={directory}/prometheus.yml"),
                    *(f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{self.port}"),
                ),
                stdout=log,
                stderr=log,
            )

    def ask(self, what: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{what}", timeout=20) as reply:
            return json.load(reply)["data"]

    def firing(self) -> set[str]:
        return {
            alert["labels"]["alertname"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }

    def wait(self, *alerts: str, gone: bool = False, timeout: float = 90) -> None:
        firing: set[str] = set()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with suppress(OSError):
                firing = self.firing()
                if not firing & set(alerts) if gone else firing >= set(alerts):
                    return
            time.sleep(0.1)
        raise WaitError(
            f"{alerts} {'still fire' if gone else 'do not fire'}, but {firing}\n{self.log.read_text()}"
        )

    def has_looked(self, times: int) -> None:
        """Wait until this number of scrapes has succeeded."""
        deadline = time.monotonic() + 90
        query = "query?query=count_over_time((up==1)[1m:1s])"
        while time.monotonic() < deadline:
            with suppress(OSError):
                found = self.ask(query)["result"]
                if found and int(found[0]["value"][1]) >= times:
                    return
            time.sleep(0.1)
        raise WaitError(f"the target was not scraped {times} times\n{self.log.read_text()}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def watch(tmp_path):
    with ExitStack() as stack:

        def start(target: str, path: str = "/metrics/") -> Prometheus:
            prometheus = Prometheus(tmp_path / "prometheus", target, path)
            stack.callback(prometheus.end)
            return prometheus

        yield start


@contextmanager
def requested_again_and_again(server, path: str):
    """Request a path in a thread, whatever is answered."""
    over = threading.Event()

    def request() -> None:
        while not over.wait(0.02):
            with suppress(OSError, TimeoutError):
                server.get(path)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def test_workers_that_cannot_load_and_views_that_fail(serve, faults, watch):
    port = free_port()
    server = serve(
        *("--bind", f"127.0.0.1:{port}", "--min-loaded", "2", "--load-retry-delay", "200ms"),
        *("--load-retry-max-delay", "500ms"),
        environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN},
        project_copy=True,
        workers=3,
    )
    server.wait_ready()
    prometheus = watch(f"127.0.0.1:{port}")
    prometheus.has_looked(10)
    assert prometheus.firing() == set()

    faults.set("ready", "import")
    server.signal(signal.SIGHUP)
    server.wait_event("frozen")
    prometheus.wait("WorkerguardFrozen")

    settings = server.project / "guinea_settings.py"
    whole = settings.read_text()
    settings.write_text("1 / 0\n")
    server.signal(signal.SIGHUP)
    server.wait_event("reload-refused")
    prometheus.wait("WorkerguardReloadRefused")
    settings.write_text(whole)
    prometheus.wait("WorkerguardReloadRefused", gone=True)

    faults.set("ready", "memory")
    for pid in server.pids()[1:]:
        os.kill(pid, signal.SIGKILL)
    prometheus.wait("WorkerguardBelowQuorum", "WorkerguardDegraded", "WorkerguardLoadFailing")
    os.kill(server.slot(1)["pid"], signal.SIGKILL)
    prometheus.wait("WorkerguardUnreachable")
    faults.clear()
    server.wait_ready()
    prometheus.wait(
        *("WorkerguardUnreachable", "WorkerguardBelowQuorum", "WorkerguardDegraded", "WorkerguardFrozen"),
        gone=True,
    )
    with requested_again_and_again(server, "/broken"):
        prometheus.wait("WorkerguardSlotFails")


def test_what_only_the_monitor_can_say(serve, faults, watch):
    """The mold that fails, the workers that all stand still, and the arbiter that does."""
    web, monitor = free_port(), free_port()
    server = serve(
        *("--bind", f"127.0.0.1:{web}", "--monitor-bind", f"127.0.0.1:{monitor}", "--load", "mold"),
        *("--timeout", "120"),
        environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN},
    )
    server.wait_ready()
    server.wait("the mold", lambda status: status["mold"]["state"] == "ready")
    prometheus = watch(f"127.0.0.1:{monitor}", "/metrics")
    prometheus.has_looked(5)
    assert prometheus.firing() == set()

    faults.set("ready", "memory")
    os.kill(server.status()["mold"]["pid"], signal.SIGKILL)
    prometheus.wait("WorkerguardMoldNotReady")

    for pid in server.pids():
        os.kill(pid, signal.SIGSTOP)
    with ExitStack() as stack:
        for _ in range(80):
            client = stack.enter_context(closing(socket.create_connection(("127.0.0.1", web), timeout=20)))
            client.sendall(b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n")
        prometheus.wait("WorkerguardBacklog")
        for pid in server.pids():
            os.kill(pid, signal.SIGCONT)
    prometheus.wait("WorkerguardBacklog", gone=True)
    server.signal(signal.SIGSTOP)
    try:
        prometheus.wait("WorkerguardArbiterSilent")
    finally:
        server.signal(signal.SIGCONT)
    prometheus.wait("WorkerguardArbiterSilent", gone=True)


@pytest.mark.needs("root")
def test_workers_that_go_too_often_and_one_that_stays_unloaded(serve, faults, watch, memory_cgroup):
    port = free_port()
    server = serve(
        *("--bind", f"127.0.0.1:{port}", "--max-requests", "10", "--min-worker-lifetime", "0"),
        *("--need-app", "off", "--load-retries", "1"),
        environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN},
        prefix=inside(memory_cgroup),
    )
    server.wait_ready()
    prometheus = watch(f"127.0.0.1:{port}")
    with requested_again_and_again(server, "/"):
        prometheus.wait("WorkerguardRecyclesTooOften")
    server.wait_ready()
    limit_file(memory_cgroup).write_text(str(600 << 20))
    with suppress(OSError):
        server.get("/grow?mb=2000")
    prometheus.wait("WorkerguardOutOfMemory")
    limit_file(memory_cgroup).write_text(str(4096 << 20))
    server.wait_ready()
    faults.set("ready", "memory", 2)
    os.kill(server.pids()[0], signal.SIGKILL)
    prometheus.wait("WorkerguardCriticalFinding")


def test_a_pool(serve, watch, tmp_path):
    monitor = free_port()
    server = serve(
        *("--monitor-bind", f"127.0.0.1:{monitor}"),
        environ={"WORKERGUARD_HEALTH_TOKEN": TOKEN},
        project_copy=True,
        workers=1,
    )
    pool = PoolWorker(
        tmp_path / "pool",
        "filesystem://",
        concurrency=2,
        options={"MIN_WORKER_LIFETIME": 0, "LOAD_RETRY_DELAY": 0.2, "LOAD_RETRY_MAX_DELAY": 0.5},
        project=server.project,
        run_dir=server.run_dir,
    ).start()
    try:
        server.wait_ready()
        pool.wait_ready()
        prometheus = watch(f"127.0.0.1:{monitor}", "/metrics")
        prometheus.has_looked(5)
        assert prometheus.firing() == set()
        pool.fault("init", "memory", 50)
        os.kill(pool.pids()[0], signal.SIGKILL)
        prometheus.wait("WorkerguardPoolDegraded", "WorkerguardPoolLoadFailing")
        assert pool.process is not None
        pool.process.send_signal(signal.SIGSTOP)
        try:
            prometheus.wait("WorkerguardPoolSilent")
        finally:
            pool.process.send_signal(signal.SIGCONT)
        prometheus.wait("WorkerguardPoolSilent", gone=True)
    finally:
        pool.end()
        print(pool.log)


def test_every_rule_has_its_situation():
    here = Path(__file__).read_text()  # the names of the alerts that the tests above wait for
    alerts = re.findall(r"alert: (\w+)", ALERTS.read_text())
    assert [alert for alert in alerts if here.count(f'"{alert}"') == 0] == []
