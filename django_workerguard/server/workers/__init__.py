"""gunicorn's worker classes, guarded. Runs in the worker; the classes are made in the arbiter."""
