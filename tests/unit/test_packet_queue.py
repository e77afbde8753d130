"""The queue of the blocking pool: each message arrives whole, even if children are killed while they use it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import threading
from contextlib import suppress

import pytest

from django_workerguard.contrib.celery.packet_queue import LONGEST, PacketQueue, Sender


@pytest.fixture
def queue():
    made = PacketQueue()
    yield made
    made._reader.close()
    made._writer.close()


@pytest.mark.parametrize("size", [0, 1, LONGEST - 100, LONGEST, LONGEST + 1, 20 << 20])
def test_a_message_of_any_size_arrives(queue, size):
    queue.put(b"x" * size)
    assert not queue.empty()
    assert queue.get() == b"x" * size
    assert queue.empty()


def test_no_descriptor_stays_open(queue):
    before = os.listdir("/proc/self/fd")
    for _ in range(20):
        queue.put(b"x" * (LONGEST + 1))
        queue.get()
    assert os.listdir("/proc/self/fd") == before


def test_there_is_nothing_to_wait_for_where_another_was_quicker(queue):
    assert not queue._reader.poll(0.0)
    assert queue._reader.recv_bytes_at_once() is None


def test_a_message_that_is_too_long_for_the_sockets_of_a_host_arrives(queue):
    queue._writer._end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    with pytest.raises(OSError, match=os.strerror(errno.EMSGSIZE)):
        queue._writer._end.send(b"x" * LONGEST)
    queue.put("x" * (LONGEST - 100))
    assert len(queue.get()) == LONGEST - 100


def test_the_end_is_told_once_nobody_can_send(queue):
    queue.put(1)
    queue._writer.close()
    assert queue.get() == 1
    assert queue._reader.poll(None)
    with pytest.raises(EOFError):
        queue.get()


def test_a_sender_is_told_that_nobody_reads():
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader.close()
    with writer, pytest.raises(BrokenPipeError):
        Sender(writer).send(1)


@pytest.fixture
def exhaust():
    """Take every descriptor of this process but a few, and return a function that gives them back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def give_back():
        while taken:
            os.close(taken.pop())

    def take():
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        return give_back

    yield take
    give_back()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_long_message_is_read_without_a_free_descriptor(queue, exhaust):
    queue.put(b"x" * (LONGEST + 1))
    exhaust()
    assert queue.get() == b"x" * (LONGEST + 1)


def test_a_long_message_waits_for_a_descriptor(queue, exhaust):
    give_back = exhaust()
    sender = threading.Thread(target=queue.put, args=(b"x" * (LONGEST + 1),))
    sender.start()
    assert not queue._reader.poll(0.2)
    give_back()
    assert queue.get() == b"x" * (LONGEST + 1)
    sender.join(10)


def _child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def _kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_children_that_are_killed_while_they_write_stop_nobody(queue):
    """A pipe with a lock stops for ever once one is killed with the lock, or in the middle of a message."""

    def write():
        while True:
            queue.put(b"y" * 100_000)
            queue.put(b"y" * 10_000)

    for _ in range(15):
        children = [_child(write) for _ in range(2)]
        for pid in children:
            assert set(queue.get()) == set(b"y")
            _kill(pid)
    last = _child(lambda: queue.put("the last"))
    while queue._reader.poll(20):
        if queue.get() == "the last":
            break
    else:
        pytest.fail("a message of a child that lives did not arrive")
    os.waitpid(last, 0)


def test_children_that_are_killed_while_they_read_stop_nobody(queue):
    def read():
        while True:
            queue.get()

    for number in range(30):
        pid = _child(read)
        for _ in range(number):
            queue.put(b"z" * 1000)
        _kill(pid)
    while not queue.empty():
        queue.get()
    queue.put("the last")
    assert queue.get() == "the last"
