"""Management commands of this package. Runs in manage.py."""
