"""What to use in place of modules that exist only under another server. Runs in the worker, when its load has failed."""

from __future__ import annotations

INSTEAD = {
    "uwsgi": "The module uwsgi exists only inside uWSGI. In place of uwsgi.reload: workerguard reload; of uwsgi.worker_id: "
    "django_workerguard.current_worker().slot; of uwsgi.cache_get and its like: Django's cache; of the spooler, mules, "
    "timers, cron and RPC: Celery; of uwsgi.lock: the database or Redis; of uwsgi.register_signal: Django's signals. Code that "
    "only asks whether it runs under uWSGI has to catch ImportError.",
    "uwsgidecorators": "The module uwsgidecorators belongs to uWSGI. In place of @postfork: a receiver of "
    "django_workerguard.signals.worker_loaded, or of after_fork_in_worker with a mold; of @timer and @cron: Celery beat; of "
    "@spool, @mulefunc and @thread: Celery.",
}
MOST = 20  # errors in a chain


def add_hint(error: BaseException) -> None:
    """Add a note to an error that comes from the import of such a module."""
    cause: BaseException | None = error
    for _ in range(MOST):
        if cause is None:
            return
        if isinstance(cause, ModuleNotFoundError) and cause.name in INSTEAD:
            cause.add_note(INSTEAD[cause.name])
            return
        cause = cause.__cause__ or cause.__context__
