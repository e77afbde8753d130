"""Guarded versions of gunicorn's worker classes. Runs in the worker; the arbiter makes the classes."""
