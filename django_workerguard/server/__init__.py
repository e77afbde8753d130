"""The guarded server: gunicorn yes, Django never."""
