"""Shelves, authors, books and loans. Runs in a worker and under manage.py."""

from django.db import models
from django.db.models import Count, F, Q
from django.urls import reverse
from django.utils import timezone


class Shelf(models.Model):
    name = models.CharField(max_length=60, unique=True)
    slug = models.SlugField(unique=True)
    about = models.TextField()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "shelves"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("catalogue:shelf", args=[self.slug])


class Author(models.Model):
    name = models.CharField(max_length=120, unique=True)
    slug = models.SlugField(unique=True)
    born = models.SmallIntegerField()
    died = models.SmallIntegerField(null=True, blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("catalogue:author", args=[self.slug])


class BookQuerySet(models.QuerySet["Book"]):
    def listed(self) -> "BookQuerySet":
        """Annotate `available`, and fetch what every list shows, by title."""
        out = Count("loans", filter=Q(loans__returned_at=None))
        return self.select_related("author", "shelf").annotate(available=F("copies") - out).order_by("title")

    def search(self, words: str) -> "BookQuerySet":
        return self.filter(
            Q(title__icontains=words) | Q(author__name__icontains=words) | Q(about__icontains=words)
        )


class Book(models.Model):
    title = models.CharField(max_length=160)
    slug = models.SlugField(max_length=160, unique=True)
    author = models.ForeignKey(Author, models.PROTECT, related_name="books")
    shelf = models.ForeignKey(Shelf, models.PROTECT, related_name="books")
    published = models.SmallIntegerField(db_index=True)
    pages = models.PositiveSmallIntegerField()
    about = models.TextField()
    copies = models.PositiveSmallIntegerField(default=2)

    objects = BookQuerySet.as_manager()

    class Meta:
        ordering = ["title"]

    def __str__(self) -> str:
        return self.title

    def get_absolute_url(self) -> str:
        return reverse("catalogue:book", args=[self.slug])

    @property
    def hue(self) -> int:
        """Return the colour of the cover, in degrees; neighbours differ."""
        return self.pk * 67 % 360


class Loan(models.Model):
    book = models.ForeignKey(Book, models.CASCADE, related_name="loans")
    reader = models.CharField(max_length=80)
    lent_at = models.DateTimeField(default=timezone.now)
    returned_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-lent_at"]
        indexes = [models.Index(fields=["returned_at", "-lent_at"], name="loan_open_first")]

    def __str__(self) -> str:
        return f"{self.book} to {self.reader}"
