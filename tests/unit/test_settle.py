"""What is stopped before the fork and started after it, in processes of their own that settle, fork and resume."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import json, os, sys, time
import django
from django.conf import settings
settings.configure(
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}},
    CACHES={{"default": {{"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}}},
)
django.setup()
from django_workerguard import mold, signals
from django_workerguard.errors import ConfigurationError, PairError
from django_workerguard.sentinel.fork_safety import Baseline, hazards
from django_workerguard.sentinel.settle import resume, settle

calls = []
def note(name):
    return lambda *args, **kwargs: calls.append(name)

def in_workers(count, work):
    '''Fork workers, and return what each has returned.'''
    answers = []
    for _ in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                resume()
                answer = work()
            except BaseException as error:
                answer = repr(error)
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as file:
            answers.append(json.loads(file.read()))
        os.waitpid(pid, 0)
    return answers

baseline = Baseline.now()
{code}
print(json.dumps(result))
"""


def run(code, tmp_path):
    program = PROGRAM.format(code=textwrap.dedent(code))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def test_pairs_stop_in_reverse_and_start_in_order(tmp_path):
    code = """
    mold.pause(stop=note("stop 1"), start=note("start 1"))
    mold.pause(stop=note("stop 2"), start=note("start 2"))
    signals.before_mold_fork.connect(note("before"), weak=False)
    signals.after_fork_in_worker.connect(note("after"), weak=False)
    settle()
    before, calls[:] = list(calls), []
    result = [before, in_workers(2, lambda: calls), calls]
    """
    started = ["start 1", "start 2", "after"]
    assert run(code, tmp_path) == [["before", "stop 2", "stop 1"], [started, started], []]


def test_the_settled_process_can_become_a_worker_itself(tmp_path):
    code = """
    mold.pause(stop=note("stop"), start=note("start"))
    settle()
    resume()
    result = calls
    """
    assert run(code, tmp_path) == ["stop", "start"]


def test_nothing_is_called_without_a_mold(tmp_path):
    assert run('mold.pause(stop=note("stop"), start=note("start")); result = calls', tmp_path) == []


def test_a_pair_that_a_receiver_registers_is_stopped_too(tmp_path):
    code = """
    def register(**_):
        mold.pause(stop=note("stop"), start=note("start"))
    signals.before_mold_fork.connect(register)
    settle()
    result = calls
    """
    assert run(code, tmp_path) == ["stop"]


REGISTER = """
def refusal(**pair):
    try:
        mold.pause(**pair)
    except ConfigurationError as error:
        return str(error)
"""


@pytest.mark.parametrize(
    ("pair", "hint"),
    [
        ("stop=len", "Give start="),
        ("stop=len, start=None", "Give start="),
        ("stop=len, start=5", "Give start="),
        ("start=len", "Give stop="),
        ("", "Give start="),
    ],
)
def test_half_a_pair_is_refused(pair, hint, tmp_path):
    answer = run(f"{REGISTER}\nresult = refusal({pair})", tmp_path)
    assert answer.startswith("mold.pause: ")
    assert hint in answer


def test_a_pair_is_refused_once_the_process_serves(tmp_path):
    code = f"""{REGISTER}
settle()
result = [refusal(stop=len, start=len), *in_workers(1, lambda: refusal(stop=len, start=len))]
"""
    for answer in run(code, tmp_path):
        assert "after the application was loaded" in answer
        assert "builtins.len" in answer


def test_a_pair_is_refused_in_a_lazy_worker_that_is_ready(tmp_path):
    code = f"""{REGISTER}
from django_workerguard.config.options import GuardOptions
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.layout import Layout, Seat, SeatState
from django_workerguard.worker.current import CurrentWorker, set_current_worker
board = Board.create(Layout(seats=1, slots=1), None)
set_current_worker(CurrentWorker(slot=1, pid=os.getpid(), generation=1, seat=0, board=board))
result = []
for state in (SeatState.LOADING, SeatState.READY):
    board.words[board.layout.seat(0) + Seat.STATE] = state
    result.append(refusal(stop=len, start=len))
"""
    loading, ready = run(code, tmp_path)
    assert loading is None
    assert "after the application was loaded" in ready


FAILING = """
def broken(*args, **kwargs):
    raise RuntimeError("no broker")
def error_of(function):
    try:
        function()
    except PairError as error:
        return [str(error), type(error.__cause__).__name__, error.exit_code]
"""


@pytest.mark.parametrize(
    ("code", "half"),
    [
        ("mold.pause(stop=broken, start=len); result = error_of(settle)", "stop of the pair"),
        ("mold.pause(stop=note(1), start=broken); settle(); result = error_of(resume)", "start of the pair"),
        ("signals.before_mold_fork.connect(broken); result = error_of(settle)", "before_mold_fork"),
        (
            "signals.after_fork_in_worker.connect(broken); settle(); result = error_of(resume)",
            "after_fork_in_worker",
        ),
    ],
)
def test_a_failure_of_the_sites_code_is_a_failed_load_that_names_it(code, half, tmp_path):
    text, cause, exit_code = run(f"{FAILING}\n{code}", tmp_path)
    assert half in text
    assert "__main__.broken" in text
    assert "RuntimeError: no broker" in text
    assert "load=lazy" in text
    assert (cause, exit_code) == ("RuntimeError", 22)


def test_a_failure_of_the_generic_settle_is_only_noted(tmp_path):
    code = """
    from django.core.cache import cache
    def broken():
        raise OSError("the cache is gone")
    cache.set("a", 1)
    from django.core.cache import caches
    caches["default"].close = broken
    settle()
    result = in_workers(1, lambda: "serves")
    """
    assert run(code, tmp_path) == ["serves"]


def test_djangos_connections_are_closed_and_open_again(tmp_path):
    code = """
    from django.db import connection
    def ask():
        with connection.cursor() as cursor:
            return cursor.execute("SELECT 6 * 7").fetchone()[0]
    ask()
    unsettled = [str(one.kind) for one in hazards(baseline)]
    settle()
    result = [unsettled, list(map(str, hazards(baseline))), in_workers(2, ask)]
    """
    assert run(code, tmp_path) == [["open-file"], [], [42, 42]]


HTTP_SERVER = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_idle_http_connections_are_closed_and_open_again(tmp_path):
    code = """
    import http.server, subprocess
    server = subprocess.Popen([sys.executable, "server.py"], stdout=subprocess.PIPE)
    port = int(server.stdout.readline())
    baseline = Baseline.now()
    import requests, urllib3
    url = f"http://127.0.0.1:{port}/"
    session, manager = requests.Session(), urllib3.PoolManager()
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port)
    ways = [lambda: session.get(url).text, lambda: manager.request("GET", url).data.decode(),
            lambda: pool.request("GET", "/").data.decode()]
    def ask():
        return [way() for way in ways]
    ask()
    unsettled = [str(one.kind) for one in hazards(baseline)]
    settle()
    result = [unsettled, list(map(str, hazards(baseline))), in_workers(2, ask)]
    server.kill()
    """
    (tmp_path / "server.py").write_text(HTTP_SERVER)
    assert run(code, tmp_path) == [["socket"] * 3, [], [["ok"] * 3] * 2]


def test_a_plain_connection_of_the_sites_stays_open_and_is_a_hazard(tmp_path):
    code = """
    import socket
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    settle()
    client.sendall(b"still there")
    result = [peer.recv(99).decode(), [str(one.kind) for one in hazards(baseline)]]
    """
    assert run(code, tmp_path) == ["still there", ["socket", "socket"]]


def test_buffered_log_lines_are_written_once(tmp_path):
    code = """
    import logging.handlers
    target = logging.FileHandler("app.log")
    handler = logging.handlers.MemoryHandler(1000, target=target)
    logging.getLogger("shop").addHandler(handler)
    logging.getLogger("shop").warning("loaded")
    settle()
    in_workers(3, handler.flush)
    result = open("app.log").read()
    """
    assert run(code, tmp_path) == "loaded\n"


def test_a_lazy_object_of_djangos_is_not_evaluated(tmp_path):
    code = """
    from django.utils.functional import SimpleLazyObject
    lazy = SimpleLazyObject(note("evaluated"))
    settle()
    import asyncio; loop = asyncio.new_event_loop(); hazards(baseline)
    result = calls
    """
    assert run(code, tmp_path) == []


def test_threads_that_end_after_their_stop_are_waited_for(tmp_path):
    code = """
    import threading
    leave = threading.Event()
    def work():
        leave.wait()
        time.sleep(0.1)
    threading.Thread(target=work).start()
    mold.pause(stop=leave.set, start=note("start"))
    settle()
    result = list(map(str, hazards(baseline)))
    """
    assert run(code, tmp_path) == []


def test_python_random_differs_in_each_worker(tmp_path):
    code = """
    import random
    settle()
    result = in_workers(3, random.random)
    """
    assert len(set(run(code, tmp_path))) == 3
