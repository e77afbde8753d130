"""The configuration of the server: every value knows where it was set, and what reading it changes in the process. Runs in the arbiter."""
