"""The guard's metrics for Prometheus. Runs in the worker. Needs the extra ``prometheus``.

Either in a registry of the project's own::

    prometheus_client.REGISTRY.register(WorkerguardCollector())

or at a separate URL: ``path("metrics/", include("django_workerguard.contrib.prometheus"))``. The worker that answers
reports the metrics of all workers, because the numbers are in shared memory. So the collector can also be registered
beside the MultiProcessCollector of prometheus_client's multiprocess mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from django_workerguard.access import may_see_metrics, own_access
from django_workerguard.conf import pool_snapshots
from django_workerguard.report.metrics import Family, families, families_of_pools
from django_workerguard.scoreboard.snapshot import snapshot
from django_workerguard.worker.current import current_board

app_name = "workerguard-metrics"


class WorkerguardCollector(Collector):
    """Yields the metrics of this worker's server, and of the project's Celery pools on this host.

    Yields nothing in a process that belongs to no guarded server.
    """

    def collect(self) -> Iterator[Metric]:
        board = current_board()
        if board is not None:
            for family in families(snapshot(board)):
                yield _metric([("", family)])
            pool_families = families_of_pools(pool_snapshots())
            for _, group in groupby(pool_families, key=lambda pair: pair[1].name):
                yield _metric(list(group))

    def describe(self) -> list[Metric]:
        """Return nothing: registering the collector must not search for a server."""
        return []


def _metric(group: list[tuple[str, Family]]) -> Any:
    """Make one metric from families with one name: the server's family, or one family for each pool."""
    _, family = group[0]
    name, text = family.name, family.help
    is_of_pools = bool(group[0][0])
    labels = ("pool", *family.labels) if is_of_pools else family.labels
    if family.kind == "info":
        about = dict(zip(labels, family.samples[0][0], strict=True))
        return InfoMetricFamily(name.removesuffix("_info"), text, value=about)
    kind = {"counter": CounterMetricFamily, "histogram": HistogramMetricFamily}.get(
        family.kind, GaugeMetricFamily
    )
    metric = kind(name, text, labels=labels)
    for pool, member in group:
        prefix = (pool,) if is_of_pools else ()
        if member.kind == "histogram":
            for values, samples in groupby(member.samples, key=lambda sample: sample[0][:-1]):
                buckets = [(key[-1], count) for key, count in samples]
                metric.add_metric((*prefix, *values), buckets, member.totals[values])
            continue
        for values, number in member.samples:
            metric.add_metric((*prefix, *values), number)
    return metric


@own_access
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape, in OpenMetrics if the client asks for it. Only for staff users and clients with the health-token."""
    if not may_see_metrics(request):
        text = "Permission denied. Log in as a staff user, or send the health-token in the header 'Authorization: Bearer'.\n"
        return HttpResponse(text, status=403, content_type="text/plain; charset=utf-8")
    registry = CollectorRegistry()
    registry.register(WorkerguardCollector())
    encode, content_type = choose_encoder(request.META.get("HTTP_ACCEPT", ""))
    return HttpResponse(encode(registry), content_type=content_type)


urlpatterns = [path("", metrics, name="metrics")]
