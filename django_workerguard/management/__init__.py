"""Django's commands of this package. Runs in manage.py."""
