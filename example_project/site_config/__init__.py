"""The example site: settings, URLs, entry points and faults."""
