"""A site that costs next to nothing, so that what the server costs is seen."""

import os

SECRET_KEY = "no-secret-in-a-benchmark"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_workerguard"]
if "UWSGI_GUARD" in os.environ:
    INSTALLED_APPS.append("django_workerguard.contrib.uwsgi")
MIDDLEWARE = []
ROOT_URLCONF = "bench_site"
DATABASES = {}
TEMPLATES = []
USE_TZ = True
