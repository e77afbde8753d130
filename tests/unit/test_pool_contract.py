"""What is used of Celery and billiard: fails when a signature, or the code around it, changes."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from billiard import pool as billiard_pool
from billiard.queues import SimpleQueue, _SimpleQueue
from celery import bootsteps, signals
from celery.bin.worker import WorkersPool
from celery.concurrency import asynpool, prefork
from celery.fixups.django import DjangoWorkerFixup
from celery.worker import loops
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer
from celery.worker.worker import WorkController

from django_workerguard.contrib.celery import versions
from django_workerguard.contrib.celery.pools import GuardedAsynPool, GuardedBlockingPool
from django_workerguard.contrib.celery.prefork import TaskPool
from django_workerguard.errors import ExitCode

SIGNATURES = {
    billiard_pool.Worker.after_fork: "(self)",
    billiard_pool.Worker.on_loop_start: "(self, pid)",
    billiard_pool.Worker.prepare_result: "(self, result)",
    billiard_pool.Worker._make_child_methods: None,
    billiard_pool.Worker._ensure_messages_consumed: "(self, completed)",
    billiard_pool.Pool._create_worker_process: "(self, i)",
    billiard_pool.Pool._repopulate_pool: "(self, exitcodes)",
    billiard_pool.Pool._maintain_pool: "(self)",
    billiard_pool.Pool._join_exited_workers: "(self, shutdown=False)",
    billiard_pool.Pool.shrink: "(self, n=1)",
    billiard_pool.Pool.grow: "(self, n=1)",
    billiard_pool.TimeoutHandler._trywaitkill: "(self, worker)",
    billiard_pool.PoolThread.stop: "(self, timeout=None)",
    billiard_pool.LaxBoundedSemaphore.__init__: "(self, value=1, verbose=None)",
    asynpool.Worker.on_loop_start: "(self, pid)",
    asynpool.AsynPool.register_with_event_loop: "(self, hub)",
    asynpool.AsynPool.on_process_alive: "(self, pid)",
    asynpool.AsynPool._process_cleanup_queues: "(self, proc)",
    prefork.TaskPool.on_start: "(self)",
    prefork.TaskPool.on_stop: "(self)",
    prefork.TaskPool.on_close: "(self)",
    prefork.TaskPool.on_terminate: "(self)",
    prefork.TaskPool.did_start_ok: "(self)",
    prefork.process_initializer: "(app, hostname)",
    Consumer.ensure_connected: "(self, conn)",
    Consumer.perform_pending_operations: "(self)",
    worker_state.maybe_shutdown: "()",
}

# what the code around must still say, and why that matters
SAID = [
    (
        prefork.process_initializer,
        "signals.worker_process_init.send(sender=",
        "its answers are collected",
    ),
    (prefork.TaskPool.on_start, "**self.options", "the pool arbiter crosses there"),
    (
        prefork.TaskPool.on_start,
        "self.BlockingPool if self.options.get('threads', True)",
        "both pools are ours",
    ),
    (billiard_pool.Pool.__init__, "self._create_worker_process(i)", "nobody is made at the start"),
    (billiard_pool.Pool.__init__, "semaphore or LaxBoundedSemaphore", "ours is patient"),
    (billiard_pool.Pool._create_worker_process, "self.Worker(", "the child is ours"),
    (billiard_pool.Pool._join_exited_workers, "_controlled_termination", "a failed load is told once"),
    (billiard_pool.Pool.terminate_job, "_job_terminated = True", "a revoked task is no crash"),
    (
        billiard_pool.Worker.__call__,
        "self.after_fork()\n        self.on_loop_start(pid=pid)",
        "loaded before it is up",
    ),
    (billiard_pool.Worker.__call__, "sys.exit = exit", "an exit code is kept only through sys.exit"),
    (billiard_pool.Worker.workloop, "wait_for_job = self.wait_for_job", "ours is asked for each job"),
    (billiard_pool.Worker.workloop, "self._ensure_messages_consumed(completed=completed)", "ours is bounded"),
    (
        asynpool.AsynPool._create_write_handlers,
        "diff = all_inqueues.difference",
        "who is not there is not fed",
    ),
    (
        asynpool.AsynPool._create_write_handlers,
        "if ready_fd not in all_inqueues:",
        "who is not there is not fed",
    ),
    (
        asynpool.AsynPool._create_process_handlers,
        "proc in waiting_to_start",
        "Celery's own time-out is disarmed",
    ),
    (asynpool.AsynPool._event_process_exit, "self.maintain_pool()", "an exit is seen at once"),
    (asynpool.AsynPool.register_with_event_loop, "self.timers.items()", "our tick"),
    (SimpleQueue.get_payload, "with self._rlock:\n            return self._reader.recv_bytes()", "so do we"),
    (_SimpleQueue.get_payload, "return self._reader.recv_bytes()", "one whole message"),
    (loops.asynloop, "obj.pool.did_start_ok()", "a failed load at the start ends nobody"),
    (loops.synloop, "perform_pending_operations()", "the main thread's pulse"),
    (WorkController.setup_instance, "signals.worker_init.send(sender=self)", "the pool is chosen there …"),
    (
        WorkController.setup_instance,
        "self.pool_cls = _concurrency.get_implementation(self.pool_cls)",
        "… and taken here",
    ),
    (WorkersPool.convert, "value == 'prefork' and worker_pool", "-P prefork keeps the setting"),
    (Consumer.ensure_connected, "conn.ensure_connection(", "the wait that is looked into"),
]
if hasattr(DjangoWorkerFixup, "_is_prefork"):  # from Celery 5.6 on
    SAID.append((DjangoWorkerFixup._is_prefork, '"prefork" in pool', "our module bears the word"))


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_a_signature_is_as_it_was(function):
    expected = SIGNATURES[function]
    if expected is not None:
        assert str(inspect.signature(function)) == expected


@pytest.mark.parametrize(
    ("where", "text", "why"), SAID, ids=[f"{f.__qualname__}-{n}" for n, (f, _, _) in enumerate(SAID)]
)
def test_the_code_around_says_what_it_said(where, text, why):
    assert text in inspect.getsource(where), why


def test_the_event_loop_sends_in_init_before_pool_is_chosen():
    source = inspect.getsource(WorkController.setup_instance)
    assert source.index("worker_init.send") < source.index("get_implementation")


def test_signals_and_steps_are_there():
    assert signals.celeryd_after_setup
    assert bootsteps.Step
    assert billiard_pool.EX_RECYCLE == 0x9B


def test_both_pools_are_celerys():
    assert issubclass(GuardedAsynPool, asynpool.AsynPool)
    assert issubclass(GuardedBlockingPool, billiard_pool.Pool)
    assert issubclass(TaskPool, prefork.TaskPool)


def test_the_extra_asks_for_what_is_supported():
    """One list: what `versions` refuses is what the package's metadata does not allow."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    asked = " ".join(project["optional-dependencies"]["celery"])
    for package, releases in versions.SUPPORTED.items():
        first, last = releases[0], releases[-1]
        assert f"{package}>={'.'.join(first)},<{last[0]}.{int(last[1]) + 1}" in asked
    assert versions.unsupported() == ""


def test_an_unsupported_version_keeps_its_exit_code_where_its_error_cannot_be_written():
    refused = "from django_workerguard.contrib.celery import versions; versions.SUPPORTED = {'celery': ()}"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"{refused}; versions.require_supported()"], stderr=full, timeout=60
        )
    assert done.returncode == ExitCode.USAGE
