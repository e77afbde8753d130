"""The catalogue as JSON. Runs in a worker."""

from typing import Any

from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from catalogue.models import Book
from site_config.context import describe_worker


@require_safe
def books(request: HttpRequest) -> JsonResponse:
    """List the books; `?q=` searches as the page does."""
    words = request.GET.get("q", "").strip()
    found = Book.objects.listed().search(words) if words else Book.objects.listed()
    return JsonResponse({"books": [_shown(book) for book in found]})


@require_safe
def book(request: HttpRequest, slug: str) -> JsonResponse:
    found = get_object_or_404(Book.objects.listed(), slug=slug)
    return JsonResponse(_shown(found) | {"about": found.about, "pages": found.pages, "copies": found.copies})


@never_cache
@require_safe
def worker(request: HttpRequest) -> JsonResponse:
    """Say which worker answers. The front page asks this twice a second."""
    return JsonResponse(describe_worker())


def _shown(book: Book) -> dict[str, Any]:
    return {
        "title": book.title,
        "author": book.author.name,
        "shelf": book.shelf.name,
        "published": book.published,
        "available": book.available,
        "url": book.get_absolute_url(),
    }
