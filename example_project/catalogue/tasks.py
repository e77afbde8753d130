"""Tasks. They run in the children of ``celery -A site_config.celery worker``."""

import os
import time

from catalogue.models import Book
from site_config.celery import app


class NotPreparedError(Exception):
    """The child that ran this had not been prepared."""


@app.task
def count_available(seconds: float = 0.0) -> dict[str, int]:
    """Count the books that can be lent just now, shelf by shelf, in a child that is prepared for it."""
    if app.conf.get("prepared") != os.getpid():
        raise NotPreparedError(f"pid {os.getpid()} took a task before it was prepared")
    time.sleep(seconds)
    counts: dict[str, int] = {}
    for book in Book.objects.listed():
        counts[book.shelf.name] = counts.get(book.shelf.name, 0) + book.available
    return counts
