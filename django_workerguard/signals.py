"""Django signals of a guarded worker, and of the mold. Runs in the worker and in the mold.

Receivers get ``worker``, a `django_workerguard.CurrentWorker`; the sender is its class. Those of `before_mold_fork` get
nothing, because there is no worker yet; the sender is None.
"""

from __future__ import annotations

from django.dispatch import Signal

#: The sentinel has verified that this worker is loaded; the worker will soon accept requests.
worker_loaded = Signal()

#: This worker was asked to leave and finishes the requests in hand. Sent in a separate thread.
worker_retiring = Signal()

#: The application is loaded in the mold; workers will be forked from this process. Sent once, before anything is stopped.
#: If a receiver raises, the load has failed.
before_mold_fork = Signal()

#: This worker was forked from a mold, and everything registered with `mold.pause` has been started. Sent before the first
#: request. If a receiver raises, the load of this worker has failed.
after_fork_in_worker = Signal()
