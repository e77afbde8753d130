"""The answer to a control request reaches its sender, wherever that runs, and nothing that is sent costs the server anything."""

from __future__ import annotations

import array
import contextlib
import gc
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from django_workerguard.arbiter.control_socket import ControlSocket, Request
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.policy.view import Policy
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.control_client import MAX_MESSAGE, ask, ask_for_file
from django_workerguard.scoreboard.layout import Layout
from tests.components import leave_out

ASK = (
    "import pathlib, sys; from django_workerguard.scoreboard.control_client import ask;"
    " print(ask(pathlib.Path(sys.argv[1]), 'wake'))"
)


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlSocket]:
    made = ControlSocket(tmp_path / "s.sock", owner=-1, allowed_uids=frozenset({os.geteuid()}), ring=False)
    yield made
    made.close()


@contextlib.contextmanager
def answered(control: ControlSocket, *descriptors: int) -> Iterator[None]:
    """Answer one request meanwhile, with these descriptors."""

    def answer() -> None:
        select.select([control], [], [], 20)
        for request in control.requests():
            request.descriptors.extend(descriptors)
            control.answer(request, request.refused)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_an_answer_reaches_another_network_namespace(control):
    if subprocess.run(("unshare", "--net", "true"), capture_output=True).returncode:
        leave_out("a network namespace of its own needs rights that this user does not have")
    with answered(control):
        told = subprocess.run(
            ("unshare", "--net", sys.executable, "-c", ASK, control.path), capture_output=True, text=True
        )
    assert told.stdout == "{'accepted': True}\n", told.stderr


def test_a_descriptor_comes_with_the_answer(control):
    with answered(control, os.open("/dev/null", os.O_RDONLY)):
        answer, fd = ask_for_file(control.path, "stacks")
    assert answer == {"accepted": True}
    assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
    os.close(fd)


def test_a_client_of_an_older_version_is_answered_at_its_address(control):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client, answered(control):
        client.bind("")
        client.sendto(b'{"do": "wake"}', str(control.path))
        assert json.loads(client.recv(MAX_MESSAGE)) == {"accepted": True}


def test_a_server_of_an_older_version_answers_at_the_address(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "s.sock"))

        def answer() -> None:
            _, address = server.recvfrom(MAX_MESSAGE)
            server.sendto(b'{"accepted": true}', address)

        thread = threading.Thread(target=answer)
        thread.start()
        assert ask(tmp_path / "s.sock", "wake") == {"accepted": True}
        thread.join()


def test_no_answer_ends_the_wait(control):
    with pytest.raises(TimeoutError) as caught:
        ask(control.path, "wake", timeout=0.05)
    assert caught.value.strerror


@pytest.mark.parametrize("number", [1, 2, 100])
def test_what_is_no_socket_costs_nothing(control, number):
    gc.collect()  # what other tests have left
    before = set(os.listdir("/proc/self/fd"))
    rights = array.array("i", [0] * number)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(str(control.path))
        with answered(control):
            client.sendmsg([b'{"do": "wake"}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert set(os.listdir("/proc/self/fd")) == before
    with answered(control):
        assert ask(control.path, "wake") == {"accepted": True}


def test_a_sender_that_does_not_read_holds_nobody_up(control):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.connect(str(control.path))
        for _ in range(1000):  # more than a socket's queue
            with answered(control):
                socket.send_fds(client, [b'{"do": "wake"}'], [theirs.fileno()])


@pytest.mark.needs("root")
def test_the_socket_is_given_away_and_not_what_a_link_in_its_place_leads_to(tmp_path, monkeypatch):
    path, treasure = tmp_path / "s.sock", tmp_path / "treasure"
    treasure.touch()

    def swap() -> int:  # another process of a user who may write to the directory
        if path.is_socket():
            path.unlink()
            path.symlink_to(treasure)
        return 0

    monkeypatch.setattr(os, "geteuid", swap)
    ControlSocket(path, owner=12345, allowed_uids=frozenset(), ring=False).close()
    assert treasure.stat().st_uid == 0


def asking(control: ControlSocket, *names: str) -> list[socket.socket]:
    """Send requests at once, and return where each is answered."""
    clients = []
    for name in names:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        client.bind(f"{control.path}.{len(clients)}")
        client.settimeout(5)
        client.sendto(json.dumps({"do": name}).encode(), str(control.path))
        clients.append(client)
    return clients


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_a_request_that_fails_takes_no_other_request_with_it(control, error):
    board = Board.create(Layout(seats=4, slots=2), None)
    tracker = Tracker(board, logging.getLogger("test"), Policy(), target=2)
    clients = asking(control, "stacks", "recycle", "wake")
    opened = []

    def respond(request: Request) -> str | None:
        request.descriptors.append(os.open("/dev/null", os.O_RDONLY))
        opened.extend(request.descriptors)
        if request.do == "stacks":
            raise error
        return None

    tracker.serve(control, respond, 1.0)
    answers = [json.loads(client.recv(MAX_MESSAGE)) for client in clients]
    assert answers == [
        {"accepted": False, "reason": "an error in the server: see its log"},
        {"accepted": True},
        {"accepted": True},
    ]
    assert len(opened) == 3
    assert not [fd for fd in opened if os.path.exists(f"/proc/self/fd/{fd}")]
    for client in clients:
        client.close()
    board.close()


def test_what_goes_with_an_answer_is_closed_even_if_it_cannot_be_answered(control):
    (client,) = asking(control, "stacks")
    (request,) = control.requests()
    request.more["offset"] = control  # no JSON
    request.descriptors.append(os.open("/dev/null", os.O_RDONLY))
    request.descriptors.insert(0, -1)
    with contextlib.suppress(OSError):
        control.answer(request, None)
    assert not os.path.exists(f"/proc/self/fd/{request.descriptors[1]}")
    client.close()
