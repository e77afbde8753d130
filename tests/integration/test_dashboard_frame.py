"""The frame around the dashboard, and projects that lack what others have."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client, override_settings
from django.test.utils import override_script_prefix
from django.urls import include, path, re_path
from django.views.static import serve

from django_workerguard.dashboard.frame import POLICY, admin_files_are_served
from tests.boards import Fleet
from tests.browser.board_site import BoardSite

PAGES = ("", "slot/1/", "reload/", "progress/?do=reload")


@pytest.fixture
def shop():
    """Show a board in this process; to whom, and in which frame, the options say."""
    admin_files_are_served.cache_clear()
    fleet = Fleet(2)
    show = types.SimpleNamespace(
        fleet=fleet, show=lambda **options: BoardSite.show(BoardSite, fleet, **options)
    )
    show.show()
    yield show
    BoardSite.forget()
    admin_files_are_served.cache_clear()


def urlconf(*patterns):
    module = types.ModuleType("invented_urls")
    module.urlpatterns = [path("guard/", include("django_workerguard.dashboard.urls")), *patterns]
    sys.modules["invented_urls"] = module
    return override_settings(ROOT_URLCONF="invented_urls")


@pytest.mark.parametrize("page", PAGES)
def test_its_own_frame_needs_no_admin_and_allows_nothing_inline(shop, page):
    response = Client().get(f"/guard/{page}")
    assert response.status_code == 200
    assert response["Content-Security-Policy"] == POLICY
    assert 'class="wg-alone"' in response.text
    assert "admin/css" not in response.text
    for inline in ("<style", "style=", "onclick", "<script>"):
        assert inline not in response.text


def own_policy(get_response):
    def answer(request):
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", "of the project")
        return response

    return answer


def test_a_policy_that_the_project_sends_everywhere_does_not_weaken_it(shop):
    with override_settings(MIDDLEWARE=[f"{__name__}.own_policy"]):
        assert Client().get("/guard/")["Content-Security-Policy"] == POLICY
        assert Client().get("/")["Content-Security-Policy"] == "of the project"


@pytest.mark.django_db
def test_the_admins_frame_is_chosen_only_if_its_files_can_be_found(shop, tmp_path):
    root = Client()
    root.force_login(User.objects.create_superuser("root"))

    def is_admins():
        admin_files_are_served.cache_clear()
        return "admin/css/base.css" in root.get("/guard/").text

    assert not is_admins()
    shop.show(dashboard_frame="admin")
    assert not is_admins(), "no file of it is served"
    with override_settings(STATIC_ROOT=str(tmp_path)):
        assert not is_admins(), "nothing was collected"
        style = tmp_path / "admin" / "css" / "base.css"
        style.parent.mkdir(parents=True)
        style.touch()
        assert is_admins()
        assert "admin/css/base.css" not in root.get("/guard/?frame=own").text
        for page in PAGES:
            response = root.get(f"/guard/{page}")
            assert "Content-Security-Policy" not in response
            assert 'class="breadcrumbs"' in response.text
    with override_settings(WHITENOISE_USE_FINDERS=True, MIDDLEWARE=[*MIDDLEWARE, f"{__name__}.whitenoise"]):
        assert is_admins()
    everything = re_path("^(?P<path>.*)$", lambda request, path: HttpResponse("a page"))
    with urlconf(path("admin/", admin.site.urls), everything):
        assert not is_admins(), "a page is no style sheet"
    static = re_path("^static/(?P<path>.*)$", serve, {"document_root": "/"})
    with urlconf(path("admin/", admin.site.urls), static):
        assert is_admins()
    with urlconf():
        assert not is_admins(), "the admin has no URLs"


MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]


def whitenoise(get_response):
    return get_response


@pytest.mark.django_db
def test_the_admins_index_leads_to_it_and_back(shop):
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    index = root.get("/admin/").text
    assert '<a href="/guard/">Workers</a>' in index
    assert "2 of 2 ready, serving" in index
    assert "app-auth" in index, "the rest of the index is as it was"
    assert '<a href="/admin/">Administration</a>' in root.get("/guard/").text
    shop.show(dashboard_access=f"{__name__}:nobody")
    assert "Workers" not in root.get("/admin/").text
    BoardSite.forget()
    assert "not under serve_guarded" in root.get("/admin/").text
    with urlconf(path("admin/", admin.site.urls)):
        sys.modules["invented_urls"].urlpatterns.pop(0)
        assert "app-workerguard" not in root.get("/admin/").text


def nobody(request):
    return False


@pytest.mark.django_db
def test_an_admin_under_another_name(shop):
    other = admin.AdminSite(name="operations")
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    with urlconf(path("ops/", other.urls)):
        assert '<a href="/ops/">Administration</a>' in root.get("/guard/").text
        assert '<a href="/guard/">Workers</a>' in root.get("/ops/").text


def test_a_site_under_a_prefix(shop):
    with override_script_prefix("/app/"):
        page = Client().get("/guard/").text
    for link in (
        "assets/dashboard.css?v=",
        "assets/dashboard.js?v=",
        "assets/well.svg?v=",
        "tiles/",
        "reload/",
        "slot/2/",
    ):
        assert f'"/app/guard/{link}' in page
    assert 'href="/guard/' not in page


class Plain(AbstractBaseUser):
    """A user model that has no idea of staff and permissions."""

    USERNAME_FIELD = "id"

    class Meta:
        app_label = "workerguard"
        managed = False


def plain_user(get_response):
    def answer(request):
        request.user = Plain(pk=7)
        return get_response(request)

    return answer


@override_settings(
    INSTALLED_APPS=["django_workerguard"],
    MIDDLEWARE=[f"{__name__}.plain_user"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
)
def test_a_user_model_without_staff(shop):
    for page in PAGES:
        assert Client().get(f"/guard/{page}").status_code == 200
    shop.show(dashboard_access=None, dashboard_actions=None)
    for page in PAGES:
        assert Client().get(f"/guard/{page}").status_code == 403
    shop.show(dashboard_actions=None)
    assert Client().get("/guard/").status_code == 200
    assert Client().post("/guard/reload/").status_code == 403


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/St_Johns"])
def test_times_are_in_utc_whatever_the_time_zone(shop, zone):
    shop.fleet.board.write_last_error(1, {"type": "E", "message": "m", "at": 1_700_000_000.0})
    with override_settings(TIME_ZONE=zone):
        assert "2023-11-14 22:13:20 UTC" in Client().get("/guard/slot/1/").text


@override_settings(LANGUAGE_CODE="ar", USE_THOUSAND_SEPARATOR=True)
def test_a_site_that_is_written_from_right_to_left(shop):
    page = Client().get("/guard/").text
    assert '<html lang="en" dir="ltr">' in page
    assert "<bdi>shop</bdi>" in page


def test_a_project_that_shows_no_dashboard_does_not_load_it():
    """Django imports every module of template tags in every worker."""
    program = (
        "import sys, django_workerguard.templatetags.workerguard\n"
        "print([name for name in sys.modules if name.startswith('django_workerguard.dashboard')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


@pytest.mark.parametrize("page", [*PAGES, "tiles/?past=60", "slot/1/now/"])
def test_a_rule_that_needs_no_database_shows_the_page_while_the_database_is_away(shop, page):
    """A test without the mark django_db may not use the database, and the client has the cookie of a session."""
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 32
    assert client.get(f"/guard/{page}").status_code == 200
