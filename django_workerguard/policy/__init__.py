"""What to do, decided without doing it. Pure: no clock, no process, no gunicorn."""
