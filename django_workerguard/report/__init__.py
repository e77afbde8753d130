"""From a snapshot to what a person or a probe is told. Pure."""
