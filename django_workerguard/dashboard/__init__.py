"""The dashboard, a page for people on call: ``path("workerguard/", include("django_workerguard.dashboard.urls"))``."""
