"""The process that loads and serves the application, whatever made it: gunicorn never, Django never."""
