"""Real libraries in forked workers: what each worker has sent arrives at a collector. Run by `make test-libraries`.

The code of a library's load is the block of `docs/howto/apm-agents-and-drivers.md` under its heading.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.libraries.collector import collecting

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "apm-agents-and-drivers.md").read_text()
HARNESS = Path(__file__).with_name("harness.py")
WORKERS, ITEMS = 4, 10
ALL = WORKERS * ITEMS


@pytest.fixture
def collector():
    with collecting() as running:
        yield running


def example(heading, **replacements):
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    return code


def replaced(heading, *pairs):
    return example(heading, **dict(pairs))


def mold(load, work, *, workers=WORKERS, settings=None, **environ):
    order = {"load": load, "work": work, "workers": workers, "settings": settings or {}}
    ended = subprocess.run(
        [sys.executable, HARNESS],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1]), ended.stderr


def all_arrive(collector, load, work, **options):
    told, errors = mold(load, work, **options)
    assert told == {"hazards": [], "again": [], "ends": [0] * WORKERS}, errors
    assert collector.distinct(ALL) == ALL


def send(collector, expression="f'item-{worker}-{number}'"):
    """The code that sends a mark by plain HTTP, for libraries that have no network of their own."""
    return f"urllib.request.urlopen('{collector.url}/' + {expression}).read()"


def test_sentry(collector):
    load = replaced(
        "Sentry", ("https://key@sentry.example.org/1", f"http://key@127.0.0.1:{collector.port}/1")
    )
    work = f"""
for number in range({ITEMS}):
    sentry_sdk.capture_message(f"item-{{worker}}-{{number}}")
sentry_sdk.flush(20)
"""
    all_arrive(collector, load, work)


def test_opentelemetry(collector):
    load = replaced("OpenTelemetry", ("https://collector.example.org", collector.url))
    work = f"""
tracer = trace.get_tracer("shop")
for number in range({ITEMS}):
    with tracer.start_as_current_span(f"item-{{worker}}-{{number}}"): pass
trace.get_tracer_provider().force_flush()
"""
    all_arrive(collector, load, work)


def test_opentelemetry_in_the_mold_is_unfit(collector):
    load = replaced("OpenTelemetry", ("https://collector.example.org", collector.url))
    told, _ = mold(load + "\ntrace_this_worker(None)", "")
    assert told["hazards"][0].startswith("thread: OtelBatch")


def test_ddtrace(collector):
    work = f"""
for number in range({ITEMS}):
    with tracer.trace(f"item-{{worker}}-{{number}}"): pass
tracer.flush()
"""
    load = example("ddtrace") + '\nwith tracer.trace("load"): pass\ntracer.flush()'
    environ = {"DD_TRACE_AGENT_URL": collector.url, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false"}
    all_arrive(collector, load, work, **environ)


def test_new_relic_is_unfit_by_name():
    environ = {"NEW_RELIC_DEVELOPER_MODE": "true", "NEW_RELIC_LICENSE_KEY": "0" * 40}
    load = "import newrelic.agent\nnewrelic.agent.initialize()\n" + example("New Relic")
    told, _ = mold(load, "", **environ)
    assert told["hazards"][0].startswith("library: newrelic has an active application")


def test_new_relic_before_its_first_request_is_no_hazard():
    environ = {"NEW_RELIC_DEVELOPER_MODE": "true", "NEW_RELIC_LICENSE_KEY": "0" * 40}
    told, _ = mold("import newrelic.agent\nnewrelic.agent.initialize()", "", **environ)
    assert told["hazards"] == []


def launchdarkly(collector):
    urls = f'base_uri="{collector.url}", events_uri="{collector.url}", stream=False, diagnostic_opt_out=True'
    return replaced("LaunchDarkly", ('Config("sdk-key")', f'Config("sdk-key", {urls})'))


def test_launchdarkly(collector):
    work = f"""
context = ldclient.Context.create("buyer")
for number in range({ITEMS}):
    ldclient.get().track(f"item-{{worker}}-{{number}}", context)
ldclient.get().flush()
ldclient.get().close()
"""
    all_arrive(collector, launchdarkly(collector), work)


def test_launchdarkly_with_a_pair_of_the_sites_is_not_started_twice(collector):
    pair = """
from django_workerguard import mold
mold.pause(stop=ldclient.get().close, start=ldclient.get().postfork)
"""
    work = f"""
import threading
names = [thread.name for thread in threading.enumerate()]
assert names.count("ldclient.events.processor") == 1, names
context = ldclient.Context.create("buyer")
for number in range({ITEMS}):
    ldclient.get().track(f"item-{{worker}}-{{number}}", context)
ldclient.get().close()
"""
    all_arrive(collector, launchdarkly(collector) + pair, work)


def test_another_version_of_launchdarkly_is_a_hazard(collector):
    load = """
from django_workerguard.sentinel import known_libraries
from dataclasses import replace
known_libraries.KNOWN_LIBRARIES = tuple(replace(one, tested=("9.19.",)) for one in known_libraries.KNOWN_LIBRARIES)
"""
    told, _ = mold(launchdarkly(collector) + load, "")
    assert told["hazards"][0].startswith("library: launchdarkly-server-sdk 9.20")
    assert "mold.pause" in told["hazards"][0]


BROKER = """
import sys
from confluent_kafka import Consumer, Producer
cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "127.0.0.1:1"})
broker = next(iter(cluster.list_topics(timeout=20).brokers.values()))
address = f"{broker.host}:{broker.port}"
cluster.produce("items", b"first"); cluster.flush()
print(address, flush=True)
consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"})
consumer.subscribe(["items"])
while True:
    message = consumer.poll(1)
    if message is not None and not message.error():
        print(message.value().decode(), flush=True)
"""


def test_kafka(tmp_path):
    lines = tmp_path / "lines"
    with (
        lines.open("w") as out,
        subprocess.Popen([sys.executable, "-c", BROKER], stdout=out, stderr=subprocess.DEVNULL) as broker,
    ):
        try:
            (address, *_) = until(lambda: lines.read_text().splitlines())
            load = replaced("Kafka", ("kafka.example.org:9092", address))
            work = f"""
for number in range({ITEMS}):
    producer.produce("items", f"item-{{worker}}-{{number}}")
assert producer.flush(20) == 0
"""
            told, errors = mold(load + "\nproducer.list_topics(timeout=20)", work)
            assert told == {"hazards": [], "again": [], "ends": [0] * WORKERS}, errors
            until(lambda: len(set(re.findall(r"item-\d+-\d+", lines.read_text()))) == ALL)
        finally:
            broker.kill()


def test_a_kafka_producer_without_a_pair_is_unfit():
    load = 'from confluent_kafka import Producer\nproducer = Producer({"bootstrap.servers": "127.0.0.1:1"})'
    told, _ = mold(load, "")
    assert any(hazard.startswith("native-thread: rdk:") for hazard in told["hazards"])


def until(condition):
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        if outcome := condition():
            return outcome
        time.sleep(0.05)
    raise AssertionError("it has not come")


def test_apscheduler(collector):
    work = f"""
import threading, urllib.request
done = threading.Semaphore(0)
def job(number):
    {send(collector)}
    done.release()
for number in range({ITEMS}):
    scheduler.add_job(job, args=(number,))
for number in range({ITEMS}):
    assert done.acquire(timeout=20)
"""
    all_arrive(collector, example("APScheduler"), work)


def test_thread_pool_executor(collector):
    work = f"""
import urllib.request
list(executor.map(lambda number: {send(collector)}, range({ITEMS})))
"""
    all_arrive(collector, example("ThreadPoolExecutor") + "\nexecutor.submit(len, ()).result()", work)


def test_queue_listener(collector):
    load = replaced("QueueListener", ("logs.example.org", f"127.0.0.1:{collector.port}"))
    work = f"""
for number in range({ITEMS}):
    logging.getLogger("shop").warning(f"item-{{worker}}-{{number}}")
listener.stop()
"""
    all_arrive(collector, load, work)


def test_prometheus_client(collector):
    load = """
from prometheus_client import Counter, generate_latest
orders = Counter("orders", "Orders", ["mark"])
"""
    work = f"""
import urllib.request
for number in range({ITEMS}):
    orders.labels(f"item-{{worker}}-{{number}}").inc()
urllib.request.urlopen("{collector.url}/metrics", data=generate_latest()).read()
"""
    all_arrive(collector, load, work)


def test_numpy(collector):
    load = """
import numpy, numpy.random
numpy.random.seed(1)
matrix = numpy.random.random((300, 300))
product = matrix @ matrix
"""
    work = f"""
import urllib.request
assert numpy.allclose(matrix @ matrix, product)
mark = int(numpy.random.random() * 10 ** 12)
urllib.request.urlopen(f"{collector.url}/item-1-{{mark}}").read()
"""
    told, errors = mold(load, work)
    assert told == {"hazards": [], "again": [], "ends": [0] * WORKERS}, errors
    assert collector.distinct(WORKERS) == WORKERS


@pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")
def test_django_redis(tmp_path):
    sock = tmp_path / "redis.sock"
    command = ["redis-server", "--port", "0", "--unixsocket", sock, "--save", ""]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            until(sock.exists)
            caches = {
                "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": f"unix://{sock}?db=0"},
                "plain": {
                    "BACKEND": "django.core.cache.backends.redis.RedisCache",
                    "LOCATION": f"unix://{sock}?db=1",
                },
            }
            load = """
from django.core.cache import caches
caches["default"].set("count", 0); caches["plain"].set("count", 0)
"""
            work = f"""
for number in range({ITEMS}):
    caches["default"].incr("count"); caches["plain"].incr("count")
"""
            told, errors = mold(load, work, settings={"CACHES": caches})
            assert told == {"hazards": [], "again": [], "ends": [0] * WORKERS}, errors
            check = f"assert caches['default'].get('count') == caches['plain'].get('count') == {ALL}"
            told, errors = mold(
                "from django.core.cache import caches", check, workers=1, settings={"CACHES": caches}
            )
            assert told["ends"] == [0], errors
        finally:
            server.kill()


def postgres_program(name):
    candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(candidates[-1]) if candidates else shutil.which(name)


@pytest.mark.skipif(not postgres_program("initdb"), reason="PostgreSQL is not installed")
def test_psycopg_with_its_pool():
    directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/pgXXXXXX"], text=True).strip())
    as_user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(directory, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    data = directory / "data"
    initdb = [*as_user, postgres_program("initdb"), "-D", data, "-A", "trust", "-U", "shop", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, cwd=directory)
    command = [*as_user, postgres_program("postgres"), "-D", data, "-k", directory, "-h", "", "-F"]
    with subprocess.Popen(command, cwd=directory, stderr=subprocess.DEVNULL) as server:
        try:
            databases = {
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": "postgres",
                    "USER": "shop",
                    "HOST": str(directory),
                    "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}},
                }
            }
            until((directory / ".s.PGSQL.5432").exists)
            load = """
import time
from django.db import OperationalError, connection
for _ in range(100):
    try:
        connection.ensure_connection(); break
    except OperationalError:
        connection.close(); time.sleep(0.1)
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS items (mark text)")
"""
            work = f"""
for number in range({ITEMS}):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO items VALUES (%s)", [f"item-{{worker}}-{{number}}"])
    connection.close()
connection.close_pool()
"""
            told, errors = mold(load, work, settings={"DATABASES": databases})
            assert told == {"hazards": [], "again": [], "ends": [0] * WORKERS}, errors
            check = f"""
with connection.cursor() as cursor:
    cursor.execute("SELECT count(DISTINCT mark) FROM items")
    assert cursor.fetchone() == ({ALL},)
"""
            told, errors = mold(load, check, workers=1, settings={"DATABASES": databases})
            assert told["ends"] == [0], errors
        finally:
            # runuser passes SIGTERM on: an immediate stop is SIGQUIT to the postmaster itself
            pid = int((data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, 3)
            server.wait(30)
    shutil.rmtree(directory, ignore_errors=True)
