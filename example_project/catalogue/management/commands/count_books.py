"""Send tasks to Celery and wait for what becomes of them."""

from argparse import ArgumentParser
from collections import Counter

from celery.exceptions import TimeoutError as NoAnswerError
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    help = "Send N tasks to the Celery worker, and say how many succeeded."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("tasks", nargs="?", type=int, default=20)
        parser.add_argument("--patience", type=float, default=60.0, help="Seconds to wait for each answer.")

    def handle(self, *, tasks: int, patience: float, **options: object) -> None:
        from catalogue.tasks import count_available  # late: the other commands need no Celery

        sent = [count_available.delay() for _ in range(tasks)]
        ends: Counter[str] = Counter()
        for result in sent:
            try:
                result.get(timeout=patience)
                ends["succeeded"] += 1
            except NoAnswerError:
                ends["not answered"] += 1
            except Exception as error:
                ends[f"failed: {error}"] += 1
        for end, count in ends.most_common():
            self.stdout.write(f"{count} {end}")
