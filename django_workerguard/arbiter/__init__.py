"""What an arbiter does, whatever makes its processes: gunicorn never, Django never. Runs in the arbiter."""
