"""The health URLs: ``path("health/", include("django_workerguard.urls"))``. Runs in the worker."""

from __future__ import annotations

from django.urls import path

from django_workerguard import views

app_name = "workerguard"

urlpatterns = [
    path("", views.health, name="health"),
    path("live/", views.probe, {"kind": "live"}, name="live"),
    path("ready/", views.probe, {"kind": "ready"}, name="ready"),
    path("startup/", views.probe, {"kind": "startup"}, name="startup"),
]
