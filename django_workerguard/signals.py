"""Django signals of a guarded worker. Runs in the worker.

Receivers get ``worker``, a `django_workerguard.CurrentWorker`; the sender is its class.
"""

from __future__ import annotations

from django.dispatch import Signal

#: The sentinel has passed this worker; it will accept requests in a moment.
worker_loaded = Signal()

#: This worker was asked to leave and finishes what is in hand. Sent in a thread of its own.
worker_retiring = Signal()
