"""The frame around the dashboard's pages: its own, or the admin's. Runs in the worker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.templatetags.static import static
from django.urls import NoReverseMatch, Resolver404, resolve, reverse

from django_workerguard.conf import current_options

ADMIN_STYLE = "admin/css/base.css"
OWN = {"base": "workerguard/base.html"}
# of the own frame; the admin's pages have needs of their own
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def frame_context(request: HttpRequest) -> dict[str, Any]:
    """Return the template that a page extends, with its context.

    It is the admin's only if ``dashboard-frame`` says so, the admin is installed, and its style sheet can be found.
    """
    if current_options().dashboard_frame != "admin" or request.GET.get("frame") == "own":
        return OWN
    if not apps.is_installed("django.contrib.admin") or not hasattr(request, "user"):
        return OWN
    if not admin_files_are_served():
        return OWN
    from django.contrib import admin  # imported late: it can only be imported if it is installed

    try:
        each_context: Callable[[HttpRequest], dict[str, Any]] = admin.site.each_context
        return {**each_context(request), "is_nav_sidebar_enabled": False, "base": "admin/base_site.html"}
    except NoReverseMatch:
        return OWN


def admin_index() -> str:
    """Return the URL of the admin's index; "" if there is none.

    It does not look at the user: a viewer who may see the page by a rule of the project's own may be nobody's user, and
    the database may be away.
    """
    if not apps.is_installed("django.contrib.admin"):
        return ""
    with contextlib.suppress(NoReverseMatch):
        return reverse("admin:index")
    return ""


@functools.lru_cache(maxsize=1)
def admin_files_are_served() -> bool:
    """Return whether the admin's style sheet can be served: it was collected, or this site serves it itself.

    A remote storage is trusted, because asking it takes time.
    """
    if not apps.is_installed("django.contrib.staticfiles"):
        return _is_served_by_the_site()
    # imported late: it can only be imported if it is installed
    from django.contrib.staticfiles.finders import find
    from django.contrib.staticfiles.storage import staticfiles_storage

    try:
        if (Path(staticfiles_storage.path("")) / ADMIN_STYLE).is_file():
            return True
    except NotImplementedError:
        return True
    except ImproperlyConfigured:
        pass  # there is no STATIC_ROOT
    whitenoise = any("whitenoise" in name for name in settings.MIDDLEWARE)
    finds = getattr(settings, "WHITENOISE_USE_FINDERS", settings.DEBUG)
    return bool(find(ADMIN_STYLE)) and ((whitenoise and finds) or _is_served_by_the_site())


def _is_served_by_the_site() -> bool:
    try:
        view = resolve(static(ADMIN_STYLE)).func
    except (Resolver404, ValueError):
        return False
    return view.__module__ in ("django.views.static", "django.contrib.staticfiles.views")
