"""The guard's metrics for Prometheus. Runs in the worker. Needs the extra ``prometheus``.

Either in a registry of the project's own::

    prometheus_client.REGISTRY.register(WorkerguardCollector())

or at a URL of their own: ``path("metrics/", include("django_workerguard.contrib.prometheus"))``. Whichever
worker is asked answers for all of them, because the numbers lie in shared memory; so it also
goes into the registry of prometheus_client's multiprocess mode, beside its MultiProcessCollector.
"""

from __future__ import annotations

from collections.abc import Iterator

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

from django_workerguard.current import current_worker
from django_workerguard.report.metrics import Family, families
from django_workerguard.views import may_see_details

app_name = "workerguard-metrics"


class WorkerguardCollector(Collector):
    """Yields the metrics of the server that this process is a worker of; none elsewhere."""

    def collect(self) -> Iterator[Metric]:
        worker = current_worker()
        if worker is not None:
            for family in families(worker.snapshot()):
                yield _metric(family)

    def describe(self) -> list[Metric]:
        """Say nothing: a registry must not look for a server when it only takes the collector in."""
        return []


def _metric(family: Family) -> Metric:
    name, text, labels = family.name, family.help, family.labels
    if family.kind == "info":
        about = dict(zip(labels, family.samples[0][0], strict=True))
        return InfoMetricFamily(name.removesuffix("_info"), text, value=about)
    if family.kind == "histogram":
        buckets = [(bound, count) for (bound,), count in family.samples]
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=family.total)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, text, labels=labels)
    for values, number in family.samples:
        metric.add_metric(values, number)
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
