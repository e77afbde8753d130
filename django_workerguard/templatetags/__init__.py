"""Template tags. Run in the worker."""
