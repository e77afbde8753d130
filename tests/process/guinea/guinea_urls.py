"""URLconf with faults: at import, half-way, and in a module of views."""

import os

from django.urls import include, path
from guinea_faults import fault, half_way

fault("urlconf")
half_way("half")

from guinea_app import views  # noqa: E402

urlpatterns = [
    path("", views.index),
    path("page", views.page),
    path("slow", views.slow),
    path("hang", views.hang),
    path("wait", views.wait),
    path("limited", views.limited),
    path("extended", views.extended),
    path("deadlock", views.deadlock),
    path("blocked-loop", views.blocked_loop),
    path("read", views.read),
    path("meta/<path:more>", views.meta),
    path("starved-stream", views.starved_stream),
    path("stream", views.stream),
    path("broken", views.broken),
    path("leave", views.leave),
    path("fork", views.fork),
    path("grow", views.grow),
    path("leak", views.leak),
    path("download", views.download),
    path("starve", views.starve),
    path("warm", views.warm),
    path("who", views.who),
    path("ticks", views.ticks),
    path("pause", views.pause),
    path("kept", views.kept),
    path("sicken", views.sicken),
    path("tire", views.tire),
    path("pooled", views.pooled),
    path("health/", include("django_workerguard.urls")),
    path("counted", views.counted),
    path("own-metrics", views.own_metrics),
]
if "GUINEA_PAGES" in os.environ:  # they take a tenth of a load, and few tests look at them
    urlpatterns += [
        path("guard/", include("django_workerguard.dashboard.urls")),
        path("metrics/", include("django_workerguard.contrib.prometheus")),
    ]
if os.environ.get("GUINEA_POOLS"):
    from health_check.views import HealthCheckView

    check = ("django_workerguard.contrib.health_check.PoolReady", {"pools": int(os.environ["GUINEA_POOLS"])})
    urlpatterns.append(path("checks", HealthCheckView.as_view(checks=[check])))
