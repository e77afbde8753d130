"""Settings of the project that the process tests break."""

import os

from guinea_faults import fault

fault("settings")

SECRET_KEY = "guinea-secret-key-of-the-process-tests"
DEBUG = False
ALLOWED_HOSTS = ["localhost"]
INSTALLED_APPS = ["guinea_app", "django_workerguard"]
MIDDLEWARE = ["django_workerguard.middleware.GuardMiddleware", "guinea_app.headers.WhoAnswers"]
ROOT_URLCONF = "guinea_urls"
DATABASES = {}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
USE_TZ = True
WORKERGUARD = {
    "LOAD_RETRY_DELAY": "100ms",
    "LOAD_RETRY_MAX_DELAY": "1s",
    "WORKER_RELOAD_MERCY": "10s",
}
EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = os.environ.get("GUINEA_MAILS", "/nonexistent")
if "GUINEA_UWSGI" in os.environ:  # first, so that it is there in a worker whose load fails later
    INSTALLED_APPS.insert(0, "django_workerguard.contrib.uwsgi")
    WORKERGUARD["HEALTH_TOKEN"] = "of-the-tests"
if "GUINEA_LOGGING" in os.environ:  # without disable_existing_loggers, which is True then
    LOGGING = {
        "version": 1,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"]},
    }
