"""The shared memory in which the arbiter and the workers write their state, and the functions that read it."""
