"""The guard's metrics for Prometheus. Runs in the worker. Needs the extra ``prometheus``.

Either in a registry of the project's own::

    prometheus_client.REGISTRY.register(WorkerguardCollector())

or at a URL of their own: ``path("metrics/", include("django_workerguard.contrib.prometheus"))``. Whichever
worker is asked answers for all of them, because the numbers lie in shared memory; so it also
goes into the registry of prometheus_client's multiprocess mode, beside its MultiProcessCollector.
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

from django_workerguard.access import may_see_details
from django_workerguard.conf import pool_snapshots
from django_workerguard.report.metrics import Family, families, families_of_pools
from django_workerguard.worker.current import current_worker

app_name = "workerguard-metrics"


class WorkerguardCollector(Collector):
    """Yields the metrics of the server that this process is a worker of, and of its project's Celery pools on this host.

    None elsewhere.
    """

    def collect(self) -> Iterator[Metric]:
        worker = current_worker()
        if worker is not None:
            for family in families(worker.snapshot()):
                yield _metric([("", family)])
            of_pools = families_of_pools(pool_snapshots())
            for _, group in groupby(of_pools, key=lambda pair: pair[1].name):
                yield _metric(list(group))

    def describe(self) -> list[Metric]:
        """Say nothing: a registry must not look for a server when it only takes the collector in."""
        return []


def _metric(group: list[tuple[str, Family]]) -> Any:
    """Make one metric of the families of one name: a server's, or those of its project's pools, by pool."""
    _, family = group[0]
    name, text = family.name, family.help
    of_pools = bool(group[0][0])
    labels = ("pool", *family.labels) if of_pools else family.labels
    if family.kind == "info":
        about = dict(zip(labels, family.samples[0][0], strict=True))
        return InfoMetricFamily(name.removesuffix("_info"), text, value=about)
    kind = {"counter": CounterMetricFamily, "histogram": HistogramMetricFamily}.get(
        family.kind, GaugeMetricFamily
    )
    metric = kind(name, text, labels=labels)
    for pool, one in group:
        before = (pool,) if of_pools else ()
        if one.kind == "histogram":
            metric.add_metric(before, [(bound, count) for (bound,), count in one.samples], one.total)
            continue
        for values, number in one.samples:
            metric.add_metric((*before, *values), number)
    return metric


@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Answer a scrape, in OpenMetrics where that is asked for; only to staff and to bearers of the health-token."""
    if not may_see_details(request):
        told = "Staff only, or with the header 'Authorization: Bearer' and the health-token.\n"
        return HttpResponse(told, status=403, content_type="text/plain; charset=utf-8")
    registry = CollectorRegistry()
    registry.register(WorkerguardCollector())
    encode, content_type = choose_encoder(request.META.get("HTTP_ACCEPT", ""))
    return HttpResponse(encode(registry), content_type=content_type)


urlpatterns = [path("", metrics, name="metrics")]
