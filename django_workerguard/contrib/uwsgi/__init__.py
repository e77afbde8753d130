"""The guard under uWSGI itself: loaded workers find a sibling that has no application, and end it. Runs in uWSGI's workers.

One line is all: ``INSTALLED_APPS = [..., "django_workerguard.contrib.uwsgi"]``. In every other process it does nothing.
"""
