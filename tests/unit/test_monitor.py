"""The parts of the monitor: its address, its listener, its answers, its connections."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.config.monitor_address import MonitorAddress
from django_workerguard.config.options import OPTIONS
from django_workerguard.monitor.answers import Answers
from django_workerguard.monitor.http import Connections
from django_workerguard.monitor.listener import Listener
from django_workerguard.report.status_page import MOST_REQUESTS, status_page
from django_workerguard.scoreboard.board import Board, BoardError
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout
from tests.shots import changed

NOTHING = {"requests": [], "not_listed": 0}


@pytest.mark.parametrize(
    ("text", "shown", "public"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000", False),
        ("127.3.2.1:0", "127.3.2.1:0", False),
        ("localhost:9000", "127.0.0.1:9000", False),
        ("[::1]:9000", "[::1]:9000", False),
        ("[::ffff:127.0.0.1]:9000", "[::ffff:127.0.0.1]:9000", False),
        ("unix:/run/site/monitor.sock", "unix:/run/site/monitor.sock", False),
        ("unix:/run/a site/monitor.sock without-token", "unix:/run/a site/monitor.sock", False),
        ("0.0.0.0:9000", "0.0.0.0:9000", True),
        ("10.1.2.3:65535 without-token", "10.1.2.3:65535", True),
        ("[::]:9000", "[::]:9000", True),
        ("[2001:db8::1]:9000", "[2001:db8::1]:9000", True),
        ("[::ffff:10.0.0.1]:9000", "[::ffff:10.0.0.1]:9000", True),
    ],
)
def test_addresses(text, shown, public):
    address = MonitorAddress.parse(text)
    assert (str(address), address.is_public) == (shown, public)
    assert address.without_token == text.endswith("without-token")
    assert MonitorAddress.parse(str(address)) == address, "as SIGUSR2 hands it over"
    assert OPTIONS["monitor_bind"].parse(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        "9000",
        ":9000",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:9000 with-token",
        "127.1:9000",
        "::1:9000",
        "[::1]",
        "[127.0.0.1]:9000",
        "[::1%lo]:9000",
        "web1.example:9000",
        "http://127.0.0.1:9000",
        "unix:",
        "unix:monitor.sock",
        "unix:/" + "x" * 107,
        "unix:/run/\0",
        "127.0.0.1:\u0661",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ValueError, match=r"is not|has at most"):
        MonitorAddress.parse(text)


def test_no_address_is_off():
    assert MonitorAddress.parse("") is None
    assert OPTIONS["monitor_bind"].parse("") == ""


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(text):
    try:
        address = MonitorAddress.parse(text)
    except ValueError:
        return
    assert address is None or str(address)


def opened(path: Path) -> Listener:
    return Listener.open(MonitorAddress(path=str(path)), uid=os.getuid(), gid=os.getgid())


def test_a_listener_removes_its_own_file_and_no_other(tmp_path):
    path = tmp_path / "sock"
    first = opened(path)
    first.close()
    assert not path.exists()
    second = opened(path)
    path.unlink()
    third = opened(path)
    second.close()
    assert path.exists(), "it is the third's"
    third.close()


def test_a_socket_in_use_is_left_alone(tmp_path):
    path = tmp_path / "sock"
    first = opened(path)
    clients = []
    try:
        with pytest.raises(OSError, match="in use"):
            opened(path)
        for _ in range(200):  # until the backlog is full
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="in use"):
            opened(path)
        assert path.exists()
    finally:
        for client in clients:
            client.close()
        first.close()


def test_a_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    link = tmp_path / "sock"
    link.symlink_to(precious)
    with pytest.raises(OSError, match="no socket"):
        opened(link)
    assert precious.read_text() == "precious"


@pytest.fixture
def board():
    board = Board.create(Layout(seats=2, slots=1), None)
    yield board
    board.close()


def test_the_board_behind_a_descriptor_is_read_only(board):
    reader = Board.attach(board.open_again())
    assert reader.layout == board.layout
    board.words[64] = 7
    assert reader.words[64] == 7
    with pytest.raises(TypeError, match="read-only"):
        reader.words[64] = 8
    reader.close()


def test_what_is_no_board_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("no board")
    fd = os.open(path, os.O_RDONLY)
    with pytest.raises(BoardError):
        Board.attach(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def answers(board: Board, *, token: str = "", local: bool = True) -> Answers:
    return Answers(board, token=token, local=local, project="/nonexistent", run_dir="/nonexistent")


def get(made: Answers, path: str, **headers: str) -> tuple[int, str]:
    answer = made.answer(path, lambda name, default: headers.get(name.lower(), default))
    return answer.status, answer.body.decode()


def test_an_empty_board_is_answered(board):
    made = answers(board)
    assert get(made, "/live/")[0] == 200, "its arbiter has just begun"
    board.words[Header.BEAT] = 0
    assert get(made, "/live/")[0] == 503
    for path in ("/", "/metrics", "/metrics/", "/status.json", ""):
        assert get(made, path)[0] == 200


@given(data=st.binary(max_size=4096), offset=st.integers(0, 4096))
def test_a_damaged_board_is_answered(data, offset):
    board = Board.create(Layout(seats=2, slots=1), None)
    try:
        start = board.layout.size * offset // 4097
        board.bytes[start : start + len(data)] = data[: board.layout.size - start]
        for path in ("/live/", "/ready/", "/startup/", "/", "/metrics", "/status.json"):
            assert get(answers(board), path)[0] in (200, 503)
    finally:
        board.close()


@pytest.mark.parametrize("local", [True, False])
def test_the_token_is_needed_wherever_it_listens(board, local):
    made = answers(board, token="letmein", local=local)
    assert get(made, "/metrics")[0] == 403
    assert get(made, "/metrics", authorization="Bearer letmeout")[0] == 403
    assert get(made, "/metrics", authorization="Bearer letmein", host="any.example")[0] == 200


def test_a_page_shows_hostile_names_as_text():
    hostile = "<script>alert(1)</script>\x1b[31m"
    request = {"slot": 1, "pid": 2, "age": 3.0, "method": "GET", "path": hostile, "view": hostile}
    page = status_page(
        changed(name=hostile, bind=[hostile], slot={"release": hostile}),
        [changed(kind="celery", name=hostile)],
        {"requests": [request], "not_listed": 0},
    )
    assert "<script" not in page
    assert "\x1b" not in page
    # title, heading, address, release; the pool's heading; path, view
    assert page.count("&lt;script&gt;") == 7


def test_a_page_shows_the_oldest_requests_only():
    request = {"slot": 1, "pid": 2, "age": 3.0, "method": "GET", "path": "/slow", "view": ""}
    page = status_page(changed(), [], {"requests": [request] * (MOST_REQUESTS + 5), "not_listed": 2})
    assert page.count("<td>/slow</td>") == MOST_REQUESTS
    assert "and 7 more" in page
    assert "No request" in status_page(changed(), [], NOTHING)


def test_a_page_shows_the_quantiles_of_the_last_minute():
    assert "<th>P50</th><th>P95</th><th>P99</th>" in status_page(changed(), [], NOTHING)
    assert "<td>-</td><td>-</td><td>-</td></tr>" in status_page(changed(), [], NOTHING)
    latency = {"p50": 0.012, "p95": 0.34, "p99": 1.2}
    page = status_page(changed(slot={"latency": latency}, latency=latency), [], NOTHING)
    assert "last minute: p50 12 ms, p95 340 ms, p99 1.2 s" in page
    assert "<td>12 ms</td><td>340 ms</td><td>1.2 s</td></tr>" in page
    pool = status_page(changed(), [changed(kind="celery")], NOTHING)
    assert pool.count("<th>P50</th>") == 1, "tasks are not timed"


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    return ours, theirs


def test_if_there_are_too_many_connections_the_oldest_that_reads_is_shut_down():
    connections = Connections(most=3)
    pairs = [pair() for _ in range(5)]
    try:
        for ours, _ in pairs[:3]:
            connections.add(ours)
        connections.has_request(pairs[0][0])
        connections.add(pairs[3][0])
        assert pairs[1][1].recv(1) == b"", "the first has sent its request"
        for ours in (pairs[2][0], pairs[3][0]):
            connections.has_request(ours)
        connections.add(pairs[4][0])
        assert pairs[0][1].recv(1) == b"", "all have: the oldest"
        for ours, _ in pairs:
            connections.remove(ours)
            connections.has_request(ours)  # a thread that is late
        connections.add(pairs[0][0])
    finally:
        for one in pairs:
            for end in one:
                end.close()
