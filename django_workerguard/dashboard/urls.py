"""The dashboard's URLs. Runs in the worker."""

from __future__ import annotations

from django.urls import path

from django_workerguard.dashboard import views

app_name = "workerguard-dashboard"

urlpatterns = [
    path("", views.fleet_page, name="fleet"),
    path("tiles/", views.tiles, name="tiles"),
    path("slot/<int:number>/", views.slot_page, name="slot"),
    path("slot/<int:number>/recycle/", views.recycle, name="recycle"),
    path("slot/<int:number>/now/", views.slot_now, name="slot-now"),
    path("reload/", views.reload, name="reload"),
    path("progress/", views.progress_page, name="progress"),
    path("progress/now/", views.progress_now, name="progress-now"),
    path("assets/<str:name>", views.asset_file, name="asset"),
]
