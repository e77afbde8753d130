"""The policy: decides what to do, and does nothing. Pure: no clock, no process, no gunicorn."""
