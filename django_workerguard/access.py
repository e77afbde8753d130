"""Access rules: who may see details of probes and metrics, who may see the dashboard, who may act there. Runs in the worker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, resolve, reverse
from django.utils.http import urlencode
from django.utils.module_loading import import_string

from django_workerguard.conf import current_options
from django_workerguard.report.health import bears_token

PERMISSION = "workerguard.operate"
View = Callable[..., HttpResponseBase]


def may_see_details(request: HttpRequest) -> bool:
    """Say whether the client of a probe or of the metrics is staff or bears the health-token."""
    # the token first, because the user may have to be read from the database
    if bears_token(request.META.get("HTTP_AUTHORIZATION", ""), current_options().health_token):
        return True
    user = getattr(request, "user", None)
    return user is not None and bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))


def may_see(request: HttpRequest) -> bool:
    """Say whether the client may see the dashboard."""
    chosen = current_options().dashboard_access
    if chosen:
        return _ask(chosen, request)
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.is_staff


def may_act(request: HttpRequest) -> bool:
    """Say whether the client, who may see the dashboard, may also recycle and reload."""
    chosen = current_options().dashboard_actions
    if chosen:
        return _ask(chosen, request)
    user = getattr(request, "user", None)
    return user is not None and user.is_active and user.has_perm(PERMISSION)


def _ask(name: str, request: HttpRequest) -> bool:
    allowed: Callable[[HttpRequest], Any] = import_string(name.replace(":", "."))
    return bool(allowed(request))


def requires(may: Callable[[HttpRequest], bool]) -> Callable[[View], View]:
    """Let a view be seen by those only; send others to log in where they can, else refuse."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if may_see(request) and (may is may_see or may(request)):
                return view(request, *args, **kwargs)
            login = _login_url(request)
            if login and request.method == "GET":
                return HttpResponseRedirect(f"{login}?{urlencode({'next': request.get_full_path()})}")
            told = "You may not see this, or not do it: see dashboard-access and dashboard-actions.\n"
            return HttpResponse(told, status=403, content_type="text/plain; charset=utf-8")

        return guarded

    return decorate


def _login_url(request: HttpRequest) -> str:
    """Return where an anonymous client can log in; "" where it cannot, or has."""
    user = getattr(request, "user", None)
    if user is None or user.is_authenticated:
        return ""
    with contextlib.suppress(NoReverseMatch):
        return reverse("admin:login")
    with contextlib.suppress(NoReverseMatch, Resolver404):
        url = resolve_url(settings.LOGIN_URL)
        resolve(url)
        return url
    return ""
