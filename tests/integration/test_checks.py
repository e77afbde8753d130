"""System checks: what is found, and what it says to do."""

from __future__ import annotations

import sys

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from django.urls import converters
from django.utils.functional import SimpleLazyObject

from django_workerguard.checks import check_health_path
from django_workerguard.management.commands.serve_guarded import Command

GUARD = "django_workerguard.middleware.GuardMiddleware"


def found(**settings) -> dict[str, str]:
    with override_settings(**settings):
        messages = run_checks(tags=["workerguard"])
    return {message.id: f"{message.msg} {message.hint}" for message in messages}


def test_nothing_is_found_in_good_settings():
    assert found() == {}


@pytest.mark.parametrize(
    ("setting", "number", "says"),
    [
        (["NEED_APP"], "E001", "is not a dictionary"),
        ({"NEED_APPS": "worker"}, "E002", "NEED_APP"),
        ({"need_app": "worker"}, "E002", "NEED_APP"),
        ({"WORKER": 4}, "E002", "WORKERS"),
        ({"NEED_APP": "maybe"}, "E003", "worker, server, off"),
        ({"LOAD_TIMEOUT": "soon"}, "E003", "30, 1.5, 500ms"),
        ({"LOAD_RETRIES": 0}, "E003", "from 1 up"),
        ({"HEALTH_PATH": "health"}, "E003", "slash at both ends"),
        ({"WARMUP": ["everything"]}, "E003", "urlconf"),
        ({"MIN_LOADED": 4, "WORKERS": 2}, "E004", "2 WORKERS"),
        ({"PRELOAD_APP": True}, "E005", '"LOAD": "auto"'),
        ({"LOAD_RETRY_DELAY": 60}, "E006", "LOAD_RETRY_MAX_DELAY"),
        ({"GIVE_UP_AFTER": 2}, "W003", "STAND_IN_AFTER"),
        ({"RELOAD_ON_RSS": 400, "EVIL_RELOAD_ON_RSS": 300}, "W006", "well above"),
        ({"MAX_WORKER_LIFETIME": 5}, "W007", "MIN_WORKER_LIFETIME"),
        ({"MAX_REQUESTS_DELTA": 5}, "W008", "Set MAX_REQUESTS"),
        ({"HEALTH_PATH": "/nowhere/"}, "W004", 'path("nowhere/"'),
        ({"HEALTH_PATH": "/admin/"}, "W005", "not the guard's"),
    ],
)
def test_what_is_wrong_with_the_setting(setting, number, says):
    messages = found(WORKERGUARD=setting)
    assert says in messages[f"workerguard.{number}"]


SITE_URLS = """
from django.urls import include, path, register_converter

class Tenant:
    regex = "[^/]+"
    def to_python(self, value): raise RuntimeError("the database was asked")
    def to_url(self, value): return value

register_converter(Tenant, "tenant")
guard = include("django_workerguard.urls")
urlpatterns = {patterns}
"""


@pytest.mark.parametrize(
    ("patterns", "numbers"),
    [
        ("[path('<tenant:one>/', lambda request: None), path('health/', guard)]", set()),
        ("[path('<tenant:one>/', include([path('', lambda request: None)])), path('health/', guard)]", set()),
        ("[path('<tenant:one>/', lambda request: None)]", {"workerguard.W004"}),
        ("[path('<slug:one>/', lambda request: None), path('health/', guard)]", {"workerguard.W005"}),
        ("[path('<int:one>/', lambda request: None), path('health/', guard)]", set()),
        ("[('x', 'y')]", set()),
        ("None", set()),
    ],
)
def test_the_health_path_is_sought_without_the_code_of_the_site(tmp_path, monkeypatch, patterns, numbers):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(converters, "REGISTERED_CONVERTERS", {})
    sys.modules.pop("site_patterns", None)
    (tmp_path / "site_patterns.py").write_text(SITE_URLS.replace("{patterns}", patterns))
    with override_settings(ROOT_URLCONF="site_patterns"):
        messages = check_health_path(None)
    assert {message.id for message in messages} == numbers


def test_a_view_at_the_health_path_is_named():
    assert "leads to admin:index" in found(WORKERGUARD={"HEALTH_PATH": "/admin/"})["workerguard.W005"]


@pytest.mark.parametrize("content", ["raise RuntimeError('out of order')", "allow = None", None])
def test_an_access_rule_that_cannot_be_imported_ends_no_command(tmp_path, monkeypatch, content):
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        (tmp_path / "site_rules.py").write_text(content)
    messages = found(WORKERGUARD={"DASHBOARD_ACCESS": "site_rules:allowed"})
    sys.modules.pop("site_rules", None)
    assert "DASHBOARD_ACCESS cannot be imported" in messages["workerguard.W009"]


def test_a_lazy_value_that_raises_ends_no_command():
    def ask():
        raise RuntimeError("the vault is closed")

    messages = found(WORKERGUARD={"HEALTH_PATH": SimpleLazyObject(ask)})
    assert messages.keys() == {"workerguard.E003"}
    assert "HEALTH_PATH cannot be read: RuntimeError: the vault is closed" in messages["workerguard.E003"]


def test_a_secret_is_not_repeated():
    messages = found(WORKERGUARD={"HEALTH_TOKEN": 12345})
    assert "12345" not in messages["workerguard.E003"]


def test_a_missing_middleware():
    assert GUARD in found(MIDDLEWARE=[])["workerguard.W001"]


def test_a_middleware_that_is_not_first():
    assert "workerguard.W002" in found(MIDDLEWARE=["django.middleware.common.CommonMiddleware", GUARD])


def test_the_checks_of_serve_guarded_ask_no_database():
    """On Django 6.1, None means every database."""
    assert Command().get_check_kwargs({}) == {"databases": []}
