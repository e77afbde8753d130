"""Speed and memory beside plain gunicorn, reported and never asserted. Run by ``make bench``."""
