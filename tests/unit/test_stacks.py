"""Reading a dump: the stacks of threads, which faulthandler writes, and of greenlets and tasks, which Python writes."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.report.stacks import read_stacks, render, shortened, stacks_of
from django_workerguard.scoreboard.in_hand import InHand
from django_workerguard.worker.stacks import write_concurrency

SECOND = 10**9
DUMP = """\
Thread 0x00007f22dea90b80 [waitress] (most recent call first):
  File "/srv/shop/views.py", line 48 in report
  File "/srv/django/base.py", line 197 in _get_response

Current thread 0x00007f22db57f6c0 (most recent call first):
  File "/srv/loop.py", line 5 in run
Thread 0x00007f22dea90b80 serves 5000000000

Task 0x00007f0000000010 [Task-5] (most recent call first):
  File "/srv/shop/views.py", line 60 in wait
-- all stacks are written
"""
IN_THREAD = InHand(0, 5 * SECOND, 0, 1, "GET", "/reports/", "shop.views.report")
IN_TASK = InHand(0, 6 * SECOND, 0, 0x7F0000000010, "GET", "/wait/", "")


def test_each_thread_and_task_is_read_with_the_request_that_it_serves():
    thread, current, task = read_stacks(DUMP)
    assert (thread.kind, thread.name, len(thread.frames)) == ("Thread", "waitress", 2)
    assert thread.request_among([IN_TASK, IN_THREAD]) == IN_THREAD, "by its start: the thread is not the task"
    assert task.request_among([IN_THREAD, IN_TASK]) == IN_TASK
    assert current.request_among([IN_THREAD, IN_TASK]) is None
    assert stacks_of(IN_THREAD, [task, thread]) == [thread]


def test_a_thread_that_serves_by_itself_is_found_by_its_identity():
    request = InHand(0, 1, 0, 0x7F22DEA90B80, "POST", "/orders/", "")
    dump = DUMP.replace("Thread 0x00007f22dea90b80 serves 5000000000\n", "")
    assert read_stacks(dump)[0].request_among([request]) == request


def test_people_are_shown_what_serves_a_request_and_the_current_thread():
    requests = [IN_THREAD, IN_TASK]
    some = render(read_stacks(DUMP), requests, 65 * SECOND, everything=False)
    assert "Thread 0x7f22dea90b80 [waitress] serves GET /reports/ for 1m00s, shop.views.report:" in some
    assert "Task 0x7f0000000010 [Task-5] serves GET /wait/ for 59.0 s:" in some
    assert "Current thread 0x7f22db57f6c0:" in some
    idle = render(read_stacks(DUMP), [], 0, everything=False)
    assert idle.startswith("Current thread")
    assert len(render(read_stacks(DUMP), [], 0, everything=True).split("\n\n")) == 3


def test_a_stack_in_one_line_keeps_whole_frames():
    stacks = read_stacks(DUMP)[:1]
    assert shortened(stacks, 100) == "views.py:48 report < base.py:197 _get_response"
    assert shortened(stacks, 40) == "views.py:48 report"
    assert shortened(stacks, 5) == ""


@given(st.text() | st.lists(st.sampled_from(DUMP.splitlines())).map("\n".join))
def test_a_dump_of_any_form_can_be_read(dump):
    stacks = read_stacks(dump)
    render(stacks, [IN_THREAD, IN_TASK], 0, everything=True)
    assert len(shortened(stacks, 50)) <= 50


def test_of_two_stacks_of_one_thread_the_later_one_counts():
    again = DUMP.replace("Current thread 0x00007f22db57f6c0", "Thread 0x00007f22db57f6c0").replace("48", "49")
    first, second, task = read_stacks(DUMP + again)
    assert (first.kind, first.identity) == ("Thread", 0x7F22DEA90B80)
    assert "line 49" in first.frames[0]
    assert (second.kind, task.kind) == ("Thread", "Task")


def test_the_stack_of_the_task_that_runs_and_of_one_that_waits():
    file = io.StringIO()

    async def inner():
        await asyncio.sleep(0)
        write_concurrency(file)

    async def outer():
        waiting = asyncio.create_task(asyncio.sleep(60), name="waiting")
        await inner()
        waiting.cancel()

    asyncio.run(outer())
    stacks = {
        stack.name: [line.rpartition(" ")[2] for line in stack.frames]
        for stack in read_stacks(file.getvalue())
    }
    assert stacks.pop("waiting") == ["sleep"]
    assert list(stacks.values()) == [["inner", "outer"]]


SITE_WITH_A_HANDLER = """
import os, signal
from django_workerguard.scoreboard.stack_format import FORCED_STACKS_SIGNAL, STACKS_SIGNAL
from django_workerguard.worker.stacks import dump_on_request
signal.signal(STACKS_SIGNAL, lambda number, frame: None)  # the site's own
dump_on_request(1)
os.kill(os.getpid(), STACKS_SIGNAL)
os.kill(os.getpid(), FORCED_STACKS_SIGNAL)
"""


def test_a_question_for_its_stacks_does_not_end_a_worker_whose_site_handles_the_signal():
    run = subprocess.run([sys.executable, "-c", SITE_WITH_A_HANDLER], capture_output=True, check=False)
    assert run.returncode == 0
    assert b"Stack (most recent call first):" in run.stdout, "code in C has written it"


ABORTED_WHILE_THREADS_COME_AND_GO = """
import _thread, os, signal, sys, threading, time
from django_workerguard.worker.stacks import dump_at_abort, dump_the_others
threading.Thread(target=threading.Event().wait, name="waits", daemon=True).start()
def handle(number, frame):
    dump_the_others(1)
    os._exit(0)
signal.signal(signal.SIGABRT, handle)
dump_at_abort(1)
def start():
    while True:
        _thread.start_new_thread(int, ())
for _ in range(2):
    _thread.start_new_thread(start, ())
_thread.start_new_thread(lambda: (time.sleep(0.05), signal.pthread_kill(threading.main_thread().ident, signal.SIGABRT)), ())
def waits_in_c():
    time.sleep(10)
waits_in_c()
"""


def test_an_abort_crashes_on_no_thread_that_starts_or_ends():
    for _ in range(10):
        command = [sys.executable, "-c", ABORTED_WHILE_THREADS_COME_AND_GO]
        run = subprocess.run(command, capture_output=True, check=False, text=True)
        assert run.returncode == 0, run.stdout[-500:]
        assert "in waits_in_c" in run.stdout, "of the main thread, by code in C"
        assert re.search(r"^Thread 0x.*\n.* in wait\n", run.stdout, re.MULTILINE), "of the others, by Python"


TWO_THREADS = """
import os, signal, threading
from django_workerguard.scoreboard.stack_format import FORCED_STACKS_SIGNAL
from django_workerguard.worker import stacks
threading.Thread(target=threading.Event().wait, daemon=True).start()
stacks.dump_on_request(1)
os.kill(os.getpid(), FORCED_STACKS_SIGNAL)
os.write(1, b"--")
stacks.force_every_thread(1)
os.kill(os.getpid(), FORCED_STACKS_SIGNAL)
"""


def test_code_in_c_reads_no_thread_that_may_run_on():
    """It can crash the process. A main thread that runs the site's code may wait in C while others run Python."""
    run = subprocess.run([sys.executable, "-c", TWO_THREADS], capture_output=True, check=True, text=True)
    main, every = run.stdout.split("--")
    assert (main.count("(most recent call first)"), every.count("(most recent call first)")) == (1, 2)
    (stack,) = read_stacks(main, main=7)
    assert (stack.kind, stack.identity, len(stack.frames)) == ("Current thread", 7, 1)
