"""The Django app: checks, no models. Runs wherever Django does."""

from __future__ import annotations

from django.apps import AppConfig


class WorkerguardConfig(AppConfig):
    """Configuration of the app, for ``INSTALLED_APPS = [..., "django_workerguard"]``."""

    name = "django_workerguard"
    label = "workerguard"
    verbose_name = "Workerguard"

    def ready(self) -> None:
        from django_workerguard import checks  # noqa: F401 - registers them
