"""``workerguard drill``: play faults against the project on a private address, and judge what they cost."""
