"""A site that costs next to nothing, so that what the server costs is seen."""

SECRET_KEY = "no-secret-in-a-benchmark"
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["django_workerguard"]
MIDDLEWARE = []
ROOT_URLCONF = "bench_site"
DATABASES = {}
TEMPLATES = []
USE_TZ = True
