"""The library's pages. Run in a worker."""

import os

from django.contrib import messages
from django.db import transaction
from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from catalogue.forms import LoanForm
from catalogue.models import Author, Book, Loan, Shelf
from django_workerguard import current_worker
from site_config import faults


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    context = {
        "shelves": Shelf.objects.annotate(size=Count("books")),
        "newest": Book.objects.listed().order_by("-published")[:6],
        "faults": faults.active(),
        "victims": _two_pids(),
    }
    return render(request, "catalogue/home.html", context)


@require_GET
def books(request: HttpRequest) -> HttpResponse:
    words = request.GET.get("q", "").strip()
    found = Book.objects.listed().search(words) if words else Book.objects.listed()
    return render(request, "catalogue/books.html", {"title": "All books", "books": found, "words": words})


@require_safe
def shelf(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Shelf, slug=slug)
    context = {"title": found.name, "lead": found.about, "books": Book.objects.listed().filter(shelf=found)}
    return render(request, "catalogue/books.html", context)


@require_safe
def author(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Author, slug=slug)
    context = {
        "title": found.name,
        "lead": f"{found.born}–{found.died or ''}",
        "books": Book.objects.listed().filter(author=found).order_by("published"),
    }
    return render(request, "catalogue/books.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def book(request: HttpRequest, slug: str) -> HttpResponse:
    form = LoanForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        return _lend(request, form, slug)
    found = get_object_or_404(Book.objects.listed(), slug=slug)
    return render(request, "catalogue/book.html", {"book": found, "form": form})


@require_safe
def loans(request: HttpRequest) -> HttpResponse:
    recent = Loan.objects.select_related("book__author").order_by("-lent_at")[:50]
    return render(request, "catalogue/loans.html", {"loans": recent})


@require_POST
def return_loan(request: HttpRequest, pk: int) -> HttpResponse:
    loan = get_object_or_404(Loan.objects.select_related("book"), pk=pk)
    if Loan.objects.filter(pk=pk, returned_at=None).update(returned_at=timezone.now()):
        messages.success(request, f"“{loan.book}” is back on its shelf.")
    return redirect("catalogue:loans")


@transaction.atomic
def _lend(request: HttpRequest, form: LoanForm, slug: str) -> HttpResponse:
    """Lend a copy if one is left. The transaction holds the database's write lock: nobody takes it between."""
    found = get_object_or_404(Book.objects.listed(), slug=slug)
    if found.available < 1:
        messages.error(request, f"Every copy of “{found}” is lent just now.")
        return redirect(found)
    loan = form.lend(found)
    messages.success(request, f"“{found}” is yours, {loan.reader}. Enjoy it.")
    return redirect("catalogue:loans")


def _two_pids() -> list[int]:
    """Return the pids of two workers, for a reader who would like to kill them."""
    worker = current_worker()
    if worker is None:
        return [os.getpid()]
    return [slot["pid"] for slot in worker.snapshot()["slots"] if slot["pid"]][:2]
