"""Where it lies is a project, to `workerguard`."""
