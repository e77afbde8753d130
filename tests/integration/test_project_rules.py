"""The package's views in a project that wants a login and a transaction for every view: their own access rule decides.

No test here may use the database, as if it were down.
"""

from __future__ import annotations

import pytest
from django.conf import settings
from django.contrib import admin
from django.db import connections
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import include, path

from django_workerguard import views
from django_workerguard.dashboard.urls import urlpatterns as dashboard_urls

ADDRESSES = ("/metrics/", "/health/", "/health/live/", "/health/ready/", "/health/startup/")
OPEN = ("/guard/", "/guard/tiles/", "/guard/assets/dashboard.css")
TOKEN = {"authorization": "Bearer the-health-token"}


def own(request):
    return HttpResponse("of the project")


urlpatterns = [
    path("own/", own),
    path("admin/", admin.site.urls),
    path("guard/", include("django_workerguard.dashboard.urls")),
    path("health/", include("django_workerguard.urls")),
    path("metrics/", include("django_workerguard.contrib.prometheus")),
]


def anybody(request):
    return True


@pytest.fixture
def project():
    """A project without GuardMiddleware, whose middleware wants a login for every view."""
    middleware = [
        *(one for one in settings.MIDDLEWARE if "GuardMiddleware" not in one),
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
    ]
    options = {"HEALTH_TOKEN": "the-health-token", "DASHBOARD_ACCESS": f"{__name__}:anybody"}
    with override_settings(
        MIDDLEWARE=middleware, ROOT_URLCONF=__name__, WORKERGUARD=options, LOGIN_URL="/login/"
    ):
        yield


@pytest.fixture
def atomic(monkeypatch):
    """Two databases with ATOMIC_REQUESTS."""
    databases = connections.settings
    monkeypatch.setitem(databases["default"], "ATOMIC_REQUESTS", True)
    monkeypatch.setitem(databases, "other", dict(databases["default"]))


@pytest.mark.parametrize("address", [*ADDRESSES, *OPEN])
def test_no_login_is_wanted_where_a_rule_of_its_own_decides(project, address):
    assert Client().get("/own/").status_code == 302
    assert Client().get(address, headers=TOKEN).status_code == 200


def test_a_client_without_rights_is_still_refused(project):
    assert Client().get("/metrics/").status_code == 403
    with override_settings(WORKERGUARD={}):
        response = Client().get("/guard/")
    assert (response.status_code, response["Location"]) == (302, "/admin/login/?next=%2Fguard%2F")


@pytest.mark.parametrize("address", [*ADDRESSES, *OPEN])
def test_no_transaction_is_begun(project, atomic, address):
    assert Client().get(address, headers=TOKEN).status_code == 200


@pytest.mark.parametrize("address", [address for address in ADDRESSES if address != "/metrics/"])
@pytest.mark.parametrize("full", [True, False], ids=["with django-health-check", "without"])
def test_the_cookie_of_a_session_has_no_probe_ask_the_database(project, monkeypatch, address, full):
    """Without the token too: a database that does not answer would hold up the probe."""
    if not full:
        monkeypatch.setattr(views, "_full_list", lambda: views._short_list)
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 32
    with override_settings(
        MIDDLEWARE=settings.MIDDLEWARE[:-1]
    ):  # Django's own for the login asks it by itself
        assert client.get(address).status_code == 200


@pytest.mark.parametrize(
    "view", [pattern.callback for pattern in dashboard_urls], ids=lambda view: view.__name__
)
def test_every_view_of_the_dashboard_has_its_own_rule(view):
    assert view.login_required is False
    assert "default" in view._non_atomic_requests
