"""The example site's URLs. Imported in a worker as part of its load."""

from django.contrib import admin
from django.urls import include, path

from site_config import faults

faults.act_on_urlconf()

urlpatterns = [
    path("health/", include("django_workerguard.urls")),
    path("workerguard/", include("django_workerguard.dashboard.urls")),
    path("metrics/", include("django_workerguard.contrib.prometheus")),
    path("admin/", admin.site.urls),
    path("", include("catalogue.urls")),
]
