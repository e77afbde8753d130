"""The library's own tests: `python manage.py test`."""

from django.test import TestCase
from django.urls import reverse

from catalogue.demo import DeliberateError
from catalogue.models import Book, Loan


class PagesTest(TestCase):
    def test_the_front_page_says_what_to_try(self):
        page = self.client.get("/")
        self.assertContains(page, "fault.py fail-next-loads 6")
        self.assertContains(page, "Machines and moons")

    def test_every_book_has_a_page(self):
        for book in Book.objects.all():
            with self.subTest(book=book):
                self.assertContains(self.client.get(book.get_absolute_url()), book.about, html=False)

    def test_shelves_and_authors_list_their_books(self):
        book = Book.objects.get(slug="persuasion")
        for page in (book.shelf.get_absolute_url(), book.author.get_absolute_url()):
            self.assertContains(self.client.get(page), "Persuasion")

    def test_the_search_finds_an_author(self):
        found = self.client.get(reverse("catalogue:books"), {"q": "stoker"})
        self.assertContains(found, "1 found")
        self.assertContains(found, "Dracula")

    def test_an_unknown_book_is_not_found(self):
        self.assertContains(self.client.get("/books/the-lost-one/"), "Not on our shelves", status_code=404)

    def test_the_admin_is_there(self):
        self.assertRedirects(self.client.get("/admin/"), "/admin/login/?next=/admin/")


class LendingTest(TestCase):
    def setUp(self):
        self.book = Book.objects.get(slug="middlemarch")
        self.book.copies = 1
        self.book.save()

    def borrow(self):
        return self.client.post(self.book.get_absolute_url(), {"reader": "Ada"}, follow=True)

    def test_a_book_is_lent_and_comes_back(self):
        self.assertContains(self.borrow(), "is yours, Ada")
        loan = Loan.objects.get()
        self.assertIsNone(loan.returned_at)
        self.assertContains(self.client.post(f"/loans/{loan.pk}/return/", follow=True), "back on its shelf")
        loan.refresh_from_db()
        self.assertIsNotNone(loan.returned_at)

    def test_the_last_copy_is_lent_once(self):
        self.borrow()
        self.assertContains(self.borrow(), "lent just now")
        self.assertEqual(Loan.objects.count(), 1)

    def test_a_reader_has_a_name(self):
        self.assertContains(self.client.post(self.book.get_absolute_url(), {"reader": ""}), "required")
        self.assertFalse(Loan.objects.exists())


class ApiTest(TestCase):
    def test_the_books_are_listed_by_title(self):
        titles = [book["title"] for book in self.client.get("/api/books/").json()["books"]]
        self.assertEqual(titles, sorted(titles))
        self.assertEqual(len(titles), 24)

    def test_the_list_is_searched_as_the_page_is(self):
        found = self.client.get("/api/books/", {"q": "moon"}).json()["books"]
        self.assertEqual(
            {book["title"] for book in found},
            {"From the Earth to the Moon", "The First Men in the Moon", "The Moonstone"},
        )

    def test_a_book_says_how_many_copies_are_left(self):
        book = Book.objects.get(slug="dracula")
        Loan.objects.create(book=book, reader="Mina")
        shown = self.client.get("/api/books/dracula/").json()
        self.assertEqual(shown["available"], shown["copies"] - 1)

    def test_the_worker_is_named_in_body_and_header(self):
        response = self.client.get("/api/worker/")
        self.assertEqual(str(response.json()["pid"]), response["X-Worker-Pid"])
        self.assertFalse(response.json()["guarded"])
        self.assertNotIn("X-Worker-Slot", response)


class DemoTest(TestCase):
    def test_a_slow_answer_comes(self):
        self.assertContains(self.client.get("/try/slow/", {"seconds": "0"}), "answered after 0 s")

    def test_nonsense_is_taken_for_the_default_and_much_for_the_most(self):
        self.assertContains(self.client.get("/try/slow/", {"seconds": "-1"}), "answered after 2 s")

    def test_a_stream_comes_line_by_line(self):
        stream = self.client.get("/try/stream/", {"lines": "3", "every": "0"})
        self.assertEqual(len(list(stream.streaming_content)), 3)

    async def test_a_stream_comes_from_asgi_too(self):
        stream = await self.async_client.get("/try/stream/", {"lines": "3", "every": "0"})
        self.assertEqual(len([line async for line in stream.streaming_content]), 3)

    def test_the_failing_page_fails(self):
        with self.assertRaises(DeliberateError):
            self.client.get("/try/raise/")
