"""The Celery app of the example site. The line that guards its pool is the last but one of its set-up.

A child prepares itself when it is forked, as many a project's do: it warms a cache, connects to
something. The faults ``tasks-…`` act there, where Celery would log the exception and go on.
"""

import os

from celery import Celery, signals

from django_workerguard.contrib.celery import guard
from site_config import broker, faults

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site_config.settings")

broker.install()

app = Celery("example")
app.config_from_object("django.conf:settings", namespace="CELERY")
guard(app)
app.autodiscover_tasks()


@signals.worker_process_init.connect
def prepare(**_: object) -> None:
    """Make a child ready for its tasks; a fault that is on acts here."""
    faults.act_on_task_load()
    app.conf.prepared = os.getpid()
