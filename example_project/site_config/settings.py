"""Settings of the example site. What differs between machines comes from EXAMPLE_… variables."""

import os
from importlib.util import find_spec
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# Good for a demonstration on one's own machine, and for nothing else.
SECRET_KEY = os.environ.get("EXAMPLE_SECRET_KEY", "the-example-site-keeps-no-secrets-" + "0123456789" * 3)
DEBUG = os.environ.get("EXAMPLE_DEBUG", "") == "1"
ALLOWED_HOSTS = os.environ.get("EXAMPLE_ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "django_workerguard",
    "whitenoise.runserver_nostatic",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "catalogue",
]
if find_spec("health_check"):
    INSTALLED_APPS.append("health_check")

MIDDLEWARE = [
    "django_workerguard.middleware.GuardMiddleware",
    "site_config.middleware.WorkerHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

WORKERGUARD = {
    "WORKERS": 4,
    "HEALTH_PATH": "/health/",
    "HEALTH_TOKEN": os.environ.get("EXAMPLE_HEALTH_TOKEN", ""),
    "RELEASE": "env:EXAMPLE_RELEASE",
    # A worker is loaded once it has shown that it can serve these.
    "WARMUP_PATH": ["/", "/books/"],
    # The children of Celery's pool are guarded by the same options, but for these.
    "CELERY": {"LOAD_TIMEOUT": 30},
}

# One variable turns from the embedded broker, which is a directory, to a server: redis://127.0.0.1:6379/0
CELERY_BROKER_URL = os.environ.get("EXAMPLE_BROKER", "filesystem://")
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_WORKER_CONCURRENCY = 4
if CELERY_BROKER_URL == "filesystem://":
    BROKER_DIR = Path(os.environ.get("EXAMPLE_BROKER_DIR") or BASE_DIR / "broker")
    for _name in ("messages", "control", "results"):
        (BROKER_DIR / _name).mkdir(parents=True, exist_ok=True)
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": BROKER_DIR / "messages",
        "data_folder_out": BROKER_DIR / "messages",
        "control_folder": BROKER_DIR / "control",
        "polling_interval": 0.1,
    }
    CELERY_RESULT_BACKEND = f"file://{BROKER_DIR / 'results'}"

ROOT_URLCONF = "site_config.urls"
WSGI_APPLICATION = "site_config.wsgi.application"
ASGI_APPLICATION = "site_config.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "site_config.context.worker",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("EXAMPLE_DATABASE", BASE_DIR / "db.sqlite3"),
        "OPTIONS": {
            # Several workers write: wait for one another, and never upgrade a lock half-way.
            "timeout": 10,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;",
        },
    },
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # no collectstatic: one step less before the first page

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{levelname} {name} pid={process} {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {"django": {"handlers": ["stderr"], "level": "INFO", "propagate": False}},
}
