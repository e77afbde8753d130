"""The monitor: a process that answers probes, scrapes and people without a worker."""
