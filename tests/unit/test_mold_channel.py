"""The messages between the arbiter and a mold, with bad input from the mold, which runs the site's code."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import pytest

from django_workerguard.worker.mold_channel import (
    LONGEST,
    Answer,
    await_message,
    open_pair,
    read_answer,
    receive,
    send,
)


@pytest.fixture
def ends():
    arbiter, mold = open_pair()
    yield arbiter, mold
    arbiter.close()
    mold.close()


def test_a_descriptor_crosses_and_only_when_its_message_is_received(ends):
    arbiter, mold = ends
    read, write = os.pipe()
    send(arbiter, {"fork": 3, "slot": 1}, (write,))
    os.close(write)
    before = set(os.listdir("/proc/self/fd"))
    await_message(mold)
    assert set(os.listdir("/proc/self/fd")) == before
    message, (descriptor,) = receive(mold)
    assert message == {"fork": 3, "slot": 1}
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    assert os.read(read, 1) == b"x"
    os.close(descriptor)
    os.close(read)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ({"seat": 3, "pid": 77}, Answer(3, 77)),
        ({"seat": 3, "refused": "fork: no memory"}, Answer(3, refused="fork: no memory")),
        ({"seat": 3, "refused": "unfit", "excused": True}, Answer(3, refused="unfit", excused=True)),
        ({"seat": 3, "pid": 1}, Answer(3, refused="the mold gave no reason")),
        ({"seat": 3, "pid": True, "excused": "yes"}, Answer(3, refused="the mold gave no reason")),
        ({"seat": "3", "pid": 77}, Answer(-1)),
        ([1, 2], Answer(-1)),
        ({}, Answer(-1)),
    ],
)
def test_an_answer_is_read_whatever_the_mold_sends(ends, sent, answer):
    arbiter, mold = ends
    mold.send(json.dumps(sent).encode())
    assert read_answer(arbiter) == answer
    assert read_answer(arbiter) is None


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"{", b"null", b"[" * 3000, b'{"seat": 1, "pid": 2' + b" " * LONGEST]
)
def test_what_is_no_message_is_an_answer_of_no_seat(ends, data):
    arbiter, mold = ends
    mold.send(data)
    assert read_answer(arbiter) == Answer(-1)


def test_descriptors_that_a_mold_sends_are_closed(ends):
    arbiter, mold = ends
    send(mold, {"seat": 3, "pid": 77}, (0, 1, 2))
    before = len(os.listdir("/proc/self/fd"))
    assert read_answer(arbiter) == Answer(3, 77)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_mold_that_has_ended_gives_no_answer_and_cannot_be_asked(ends):
    arbiter, mold = ends
    mold.close()
    assert read_answer(arbiter) is None
    with pytest.raises(BrokenPipeError):
        send(arbiter, {"fork": 1})


def test_a_mold_that_does_not_read_holds_up_nobody(ends):
    arbiter, _ = ends
    sent = 0
    with suppress(BlockingIOError):
        while sent < 100_000:
            send(arbiter, {"fork": 1})
            sent += 1
    assert 0 < sent < 100_000
