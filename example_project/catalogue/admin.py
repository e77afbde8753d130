"""The catalogue in Django's admin. Runs in a worker."""

from django.contrib import admin

from catalogue.models import Author, Book, Loan, Shelf


@admin.register(Shelf, Author)
class NamedAdmin(admin.ModelAdmin):
    list_display = ["name"]
    search_fields = ["name"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Book)
class BookAdmin(admin.ModelAdmin):
    list_display = ["title", "author", "shelf", "published", "copies"]
    list_filter = ["shelf"]
    list_select_related = ["author", "shelf"]
    search_fields = ["title", "author__name"]
    prepopulated_fields = {"slug": ["title"]}


@admin.register(Loan)
class LoanAdmin(admin.ModelAdmin):
    list_display = ["book", "reader", "lent_at", "returned_at"]
    list_filter = [("returned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["book"]
    search_fields = ["reader", "book__title"]
