"""A signal goes to the main thread, even while another one would take it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

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


WITHOUT_MAIN_THREAD = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("leaves", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_sigkill_ends_a_process_whose_main_thread_has_exited():
    with subprocess.Popen([sys.executable, "-c", WITHOUT_MAIN_THREAD], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"leaves\n"
        try:
            until(lambda: process_state(child.pid) == "Z")  # its first thread
            signal_main_thread(child.pid, signal.SIGKILL)
            assert child.wait(10) == -signal.SIGKILL
        finally:
            child.kill()


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
