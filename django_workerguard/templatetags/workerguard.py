"""The dashboard's entry on the admin's index page. Runs in the worker.

Django imports this module in every project that uses templates, so it imports nothing more until it is used.
"""

from __future__ import annotations

from typing import Any

from django.template import Context, Library

register = Library()


@register.inclusion_tag("workerguard/admin_entry.html", takes_context=True)
def workerguard_entry(context: Context) -> dict[str, Any]:
    """Show a link to the dashboard, with the state of the server, to a user who may see it."""
    from django.urls import NoReverseMatch, reverse

    from django_workerguard.access import may_see

    request = context.get("request")
    try:
        url = reverse("workerguard-dashboard:fleet")
    except NoReverseMatch:
        return {}
    if request is None or not may_see(request):
        return {}
    from django_workerguard.dashboard.snapshots import html_cache

    cache = html_cache()
    return {"url": url, "state": cache.state()["summary"] if cache is not None else "not under serve_guarded"}
