"""The arbiter's side of the board and the child's, whatever makes the processes: gunicorn never, Django never."""
