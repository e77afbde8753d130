"""Reading a dump: the stacks of threads, which faulthandler writes, and of greenlets and tasks, which Python writes."""

from __future__ import annotations

import asyncio
import io

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
