"""A signal goes to the main thread, even while another one would take it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from django_workerguard.arbiter.main_thread import signal_main_thread

BLOCKS = """
import signal, sys, threading, time
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])  # as while a thread is being started
print("blocked", flush=True)
sys.stdin.readline()
print("pending:", signal.SIGABRT in signal.sigpending(), flush=True)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGABRT])
"""


def test_it_waits_for_the_main_thread():
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "blocked\n"
        signal_main_thread(child.pid, signal.SIGABRT)
        told, _ = child.communicate("go on\n", timeout=60)
    assert (told, child.returncode) == ("pending: True\n", -signal.SIGABRT)


def test_a_process_that_is_gone():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(ProcessLookupError):
        signal_main_thread(gone.pid, signal.SIGABRT)
