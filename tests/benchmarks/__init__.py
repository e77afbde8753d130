"""Speed and memory beside plain gunicorn, uWSGI and Celery's own pool: reported, and judged by the project's figures. Run by ``make bench``."""
