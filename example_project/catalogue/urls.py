"""The catalogue's URLs. Imported in a worker as part of its load."""

from django.urls import path

from catalogue import api, demo, views

app_name = "catalogue"

urlpatterns = [
    path("", views.home, name="home"),
    path("books/", views.books, name="books"),
    path("books/<slug:slug>/", views.book, name="book"),
    path("shelves/<slug:slug>/", views.shelf, name="shelf"),
    path("authors/<slug:slug>/", views.author, name="author"),
    path("loans/", views.loans, name="loans"),
    path("loans/<int:pk>/return/", views.return_loan, name="return"),
    path("api/books/", api.books, name="api-books"),
    path("api/books/<slug:slug>/", api.book, name="api-book"),
    path("api/worker/", api.worker, name="api-worker"),
    path("try/slow/", demo.slow, name="slow"),
    path("try/stream/", demo.stream, name="stream"),
    path("try/raise/", demo.fail, name="raise"),
]
