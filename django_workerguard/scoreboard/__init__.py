"""The shared memory in which arbiter and workers say how they are, and its readers."""
