"""What every integration test starts from."""

from __future__ import annotations

import pytest

from django_workerguard.middleware import gate_of_process


@pytest.fixture(autouse=True)
def fresh_gate():
    """Each test is a process of its own to the middleware."""
    gate_of_process.cache_clear()
