"""A load probe."""

from guinea_faults import fault


def probe() -> None:
    fault("probe")
