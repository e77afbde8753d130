"""Django signals of a guarded worker. Runs in the worker.

Receivers get ``worker``, a `django_workerguard.CurrentWorker`; the sender is its class.
"""

from __future__ import annotations

from django.dispatch import Signal

#: The sentinel has verified that this worker is loaded; the worker will soon accept requests.
worker_loaded = Signal()

#: This worker was asked to leave and finishes the requests in hand. Sent in a separate thread.
worker_retiring = Signal()
