"""Access rules for the details of probes and metrics, the dashboard, and the dashboard's actions. Runs in the worker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, TypeVar

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
AnyView = TypeVar("AnyView", bound=View)


class _EveryDatabase(frozenset[str]):
    """Contains the alias of any database, without a look into the settings."""

    def __contains__(self, alias: object) -> bool:
        return True


def own_access(view: AnyView) -> AnyView:
    """Have Django call a view without a login and without a transaction: it has its own access rule, or needs none.

    Like Django's `login_not_required`, and its `non_atomic_requests` for every database: the database may be down.
    """
    view.login_required = False  # type: ignore[attr-defined] # read by LoginRequiredMiddleware
    view._non_atomic_requests = _EveryDatabase()  # type: ignore[attr-defined] # read by the request handler
    return view


def has_token(request: HttpRequest) -> bool:
    """Return whether the client of a probe or of the metrics has the health-token."""
    return bears_token(request.META.get("HTTP_AUTHORIZATION", ""), current_options().health_token)


def may_see_metrics(request: HttpRequest) -> bool:
    """Return whether the client of the metrics has the health-token or is a staff user."""
    if has_token(request):  # first: reading the user may need the database
        return True
    user = getattr(request, "user", None)
    return user is not None and bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))


def may_see(request: HttpRequest) -> bool:
    """Return whether the client may see the dashboard."""
    rule = current_options().dashboard_access
    if rule:
        return _is_allowed(rule, request)
    user = getattr(request, "user", None)
    # a user model of the project's own may lack these
    return bool(getattr(user, "is_active", False) and getattr(user, "is_staff", False))


def may_act(request: HttpRequest) -> bool:
    """Return whether a client that may see the dashboard may also recycle and reload."""
    rule = current_options().dashboard_actions
    if rule:
        return _is_allowed(rule, request)
    user = getattr(request, "user", None)
    has_permission = getattr(user, "has_perm", None)
    return bool(
        getattr(user, "is_active", False) and has_permission is not None and has_permission(PERMISSION)
    )


def _is_allowed(rule: str, request: HttpRequest) -> bool:
    function: Callable[[HttpRequest], Any] = import_string(rule.replace(":", "."))
    return bool(function(request))


def requires(may: Callable[[HttpRequest], bool]) -> Callable[[View], View]:
    """Allow a view only if ``may`` allows the request. Redirect other clients to the login if there is one, else refuse."""

    def decorate(view: View) -> View:
        @own_access
        @functools.wraps(view)
        def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if may_see(request) and (may is may_see or may(request)):
                return view(request, *args, **kwargs)
            login = _login_url(request)
            if login and request.method == "GET":
                return HttpResponseRedirect(f"{login}?{urlencode({'next': request.get_full_path()})}")
            text = "Permission denied. Access is controlled by the options dashboard-access and dashboard-actions.\n"
            return HttpResponse(text, status=403, content_type="text/plain; charset=utf-8")

        return guarded

    return decorate


def _login_url(request: HttpRequest) -> str:
    """Return the URL at which an anonymous client can log in; "" if there is none or the client is logged in."""
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
