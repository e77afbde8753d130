"""URLs of the integration tests."""

from django.contrib import admin
from django.http import HttpResponse
from django.urls import include, path


def index(request):
    return HttpResponse("index\n")


urlpatterns = [
    path("", index),
    path("admin/", admin.site.urls),
    path("guard/", include("django_workerguard.dashboard.urls")),
    path("health/", include("django_workerguard.urls")),
]
