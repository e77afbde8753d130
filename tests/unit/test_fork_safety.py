"""The scan for hazards, in processes of their own: every kind of hazard is found, and nothing harmless is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from django_workerguard.sentinel.fork_safety import Hazard, HazardKind

SCAN = """
import json, os, sys, time
{before}
from django_workerguard.sentinel.fork_safety import Baseline, hazards
baseline = Baseline.now()
{code}
assert "django" not in sys.modules
found = hazards(baseline)
assert {{(h.kind, h.text) for h in hazards(baseline)}} == {{(h.kind, h.text) for h in found}}, "the second scan differs"
print(json.dumps([(hazard.kind, hazard.text) for hazard in found]))
sys.stdout.flush()
os._exit(0)
"""


def scan(code, tmp_path, *, before=""):
    program = SCAN.format(code=textwrap.dedent(code), before=textwrap.dedent(before))
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        scanned = subprocess.Popen(
            [sys.executable, "-c", program], stdout=out, stderr=err, cwd=tmp_path, start_new_session=True
        )
        try:
            assert scanned.wait(60) == 0, (tmp_path / "err").read_text()
        finally:  # its children too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(scanned.pid, signal.SIGKILL)
    output = (tmp_path / "out").read_text()
    return [(kind, text) for kind, text in json.loads(output.splitlines()[-1])]


# the code, the kind and a part of the text of the one hazard
UNSAFE = {
    "thread": (
        """
        import threading
        ticking = threading.Event()
        def tick():
            ticking.set()
            time.sleep(60)
        threading.Thread(target=tick, name="ticker", daemon=True).start()
        ticking.wait()
        """,
        "thread",
        "ticker, which runs <string>:",
    ),
    "thread of a function in C": (
        """
        import threading
        threading.Thread(target=time.sleep, args=[60], name="sleeper", daemon=True).start()
        """,
        "thread",
        "sleeper, which runs time.sleep",
    ),
    "timer": (
        """
        import threading
        def ring(): ...
        timer = threading.Timer(60, ring)
        timer.daemon = True
        timer.start()
        """,
        "thread",
        "which runs <string>:",
    ),
    "executor": (
        """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1, thread_name_prefix="mailer")
        pool.submit(len, ()).result()
        """,
        "thread",
        "mailer_0, which runs ",
    ),
    "thread without an object": (
        """
        import _thread
        running = _thread.allocate_lock()
        running.acquire()
        def run():
            running.release()
            time.sleep(60)
        _thread.start_new_thread(run, ())
        running.acquire()
        """,
        "thread",
        "which runs <string>:",
    ),
    "native thread": (
        """
        import ctypes
        libc = ctypes.CDLL(None)
        handle = ctypes.c_ulong()
        assert libc.pthread_create(ctypes.byref(handle), None, libc.pause, None) == 0
        """,
        "native-thread",
        "python",
    ),
    "child process": (
        """
        import subprocess
        child = subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL)
        while not open(f"/proc/{child.pid}/cmdline").read():  # it is written after the start has succeeded
            time.sleep(0.001)
        """,
        "child-process",
        "sleep 60",
    ),
    "child process without a command line": (
        """
        import subprocess
        child = subprocess.Popen([""], executable="cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        child.stdin.write(b"x")
        child.stdout.read(1)
        """,
        "child-process",
        ": [cat]",
    ),
    "forked child": (
        """
        import multiprocessing
        with open(os.devnull) as devnull:
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
            child.start()
        """,
        "child-process",
        ": a fork of the process that loads",
    ),
    "TCP connection": (
        """
        import socket
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted = listener.accept()[0]
        listener.close()
        """,
        "socket",
        "127.0.0.1:",
    ),
    "listener": (
        """
        import socket
        open_listener = socket.create_server(("127.0.0.1", 0))
        """,
        "socket",
        "listens on 127.0.0.1:",
    ),
    "Unix connection": (
        """
        import socket
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("broker.sock")
        listener.listen()
        client = socket.socket(socket.AF_UNIX)
        client.connect("broker.sock")
        """,
        "socket",
        "broker.sock",
    ),
    "socket pair": ("import socket; pair = socket.socketpair()", "socket", "pair of Unix sockets"),
    "pipe": ("pipe = os.pipe()", "pipe", "end of pipe:"),
    "epoll": ("import select; epoll = select.epoll()", "event-descriptor", "epoll"),
    "selector": (
        "import selectors; selector = selectors.DefaultSelector()",
        "event-descriptor",
        "selector of Python",
    ),
    "eventfd": (
        "import ctypes; fd = ctypes.CDLL(None).eventfd(0, 0)",
        "event-descriptor",
        "eventfd",
    ),
    "inotify": (
        "import ctypes; fd = ctypes.CDLL(None).inotify_init1(0)",
        "event-descriptor",
        "inotify",
    ),
    "asyncio loop": (
        "import asyncio; loop = asyncio.SelectorEventLoop()",
        "event-loop",
        "_UnixSelectorEventLoop",
    ),
    "uvloop": ("import uvloop; uv_loop = uvloop.new_event_loop()", "event-loop", "uvloop.Loop"),
    "file for writing": ('file = open("audit.txt", "w")', "open-file", "audit.txt"),
    "file for reading and writing": (
        'open("data", "w").close(); file = open("data", "r+b")',
        "open-file",
        "data",
    ),
    "temporary file": ("import tempfile; file = tempfile.TemporaryFile()", "open-file", "(deleted)"),
    "memfd": ('fd = os.memfd_create("cache")', "open-file", "/memfd:cache"),
    "New Relic with an application": (
        # its module and the two attributes that the scan looks at; the real agent is in tests/libraries
        """
        import types
        module = sys.modules["newrelic.core.agent"] = types.ModuleType("newrelic.core.agent")
        module.Agent = type("Agent", (), {"_instance": type("Instance", (), {"_applications": {"shop": 1}})})
        """,
        "library",
        "newrelic",
    ),
}

SAFE = {
    "nothing": "",
    "ended thread": """
        import threading
        thread = threading.Thread(target=len, args=((),))
        thread.start()
        thread.join()
        """,
    "thread that is stopped around a fork": """
        import threading
        class Restarting:
            def start(self):
                self.leave = threading.Event()
                self.thread = threading.Thread(target=self.leave.wait, daemon=True)
                self.thread.start()
            def stop(self):
                self.leave.set()
                self.thread.join()
        restarting = Restarting()
        restarting.start()
        os.register_at_fork(before=restarting.stop, after_in_parent=restarting.start)
        """,
    "its native event descriptors": """
        import ctypes
        eventfd, memfd = ctypes.CDLL(None).eventfd(0, 0), os.memfd_create("tracer")
        epoll = ctypes.CDLL(None).epoll_create1(0)
        """,
    "ended child": """
        import subprocess
        subprocess.run(["true"])
        """,
    "child that has ended and was not collected": """
        import subprocess
        zombie = subprocess.Popen(["true"])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        """,
    "closed socket": """
        import socket
        closed = socket.create_server(("127.0.0.1", 0))
        closed.close()
        """,
    "socket that is not connected": "import socket; fresh = socket.socket()",
    "shut-down connection": """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        shut = socket.create_connection(server.getsockname())
        answered = server.accept()[0]
        shut.shutdown(socket.SHUT_RDWR)
        answered.shutdown(socket.SHUT_RDWR)
        server.close()
        """,
    "shut-down pair": """
        import socket
        shut_pair = socket.socketpair()
        shut_pair[0].shutdown(socket.SHUT_RDWR)
        """,
    "syslog over UDP": """
        import logging.handlers
        syslog = logging.handlers.SysLogHandler(("127.0.0.1", 9))
        """,
    "statsd over UDP": """
        import socket
        statsd = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        statsd.connect(("127.0.0.1", 9))
        """,
    "syslog at /dev/log": "import socket; log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "pipe without a writer": """
        reader, writer = os.pipe()
        os.close(writer)
        """,
    "closed loop": """
        import asyncio
        asyncio.run(asyncio.sleep(0))
        """,
    "policy of uvloop": """
        import asyncio, uvloop
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        """,
    "log file": """
        import logging
        handler = logging.FileHandler("app.log")
        handler.emit(logging.makeLogRecord({"msg": "loaded"}))
        """,
    "file for reading": 'open("table", "w").close(); table = open("table")',
    "null device": 'devnull = open(os.devnull, "r+b", buffering=0)',
    "shared memory of multiprocessing": """
        import multiprocessing
        counter, lock = multiprocessing.Value("i"), multiprocessing.Lock()
        """,
    "lock file of concurrent-log-handler": 'lock_file = open(".__app.lock", "w")',
    "sealed memfd": """
        import fcntl
        sealed = os.memfd_create("information", os.MFD_ALLOW_SEALING)
        fcntl.fcntl(sealed, 1033, 0x8)
        """,
    "unpatched hub of gevent": "import gevent; gevent.get_hub()",
    "unpatched hub of gevent that has run": "import gevent; gevent.sleep(0.001)",
    "random numbers": "import random; random.random()",
}
# what a hazard consists of: libuv's own descriptors, the pipe by which a child notices its parent's end, and those of `Popen`
PARTS = {
    "uvloop": ("pipe", "event-descriptor"),
    "forked child": ("pipe",),
    "child process without a command line": ("pipe",),
}
# parts of this one belong to the thread before it
TOGETHER = "its native event descriptors"


@pytest.mark.parametrize("name", UNSAFE)
def test_a_hazard_is_found(name, tmp_path):
    code, kind, text = UNSAFE[name]
    found = scan(code, tmp_path)
    assert found[0][0] == kind
    assert text in found[0][1]
    assert {one[0] for one in found} <= {kind, *PARTS.get(name, ())}


@pytest.mark.parametrize("name", [name for name in SAFE if name != TOGETHER])
def test_nothing_harmless_is_a_hazard(name, tmp_path):
    assert scan(SAFE[name], tmp_path) == []


def everything(snippets):
    """Run each in names of its own, which stay."""
    runs = (f"kept.append(dict(globals())); exec({textwrap.dedent(one)!r}, kept[-1])" for one in snippets)
    return "\n".join(("kept = []", *runs))


def test_all_that_is_harmless_is_harmless_together(tmp_path):
    assert scan(everything(SAFE.values()), tmp_path) == []


def test_each_hazard_is_found_among_all_that_is_harmless(tmp_path):
    """Except event descriptors and memfds: beside a library that restarts its threads they are taken for its own."""
    native = {"epoll", "eventfd", "inotify", "memfd"}
    hazards = {name: entry for name, entry in UNSAFE.items() if name not in native}
    found = scan(everything([*SAFE.values(), *(code for code, _, _ in hazards.values())]), tmp_path)
    for name, (_, kind, text) in hazards.items():
        assert any(one[0] == kind and text in one[1] for one in found), (name, found)


def test_every_kind_has_its_test():
    tested = {kind for _, kind, _ in UNSAFE.values()}
    assert tested | {"greenlet", "not-examined"} == set(HazardKind)


def test_what_the_process_had_before_is_no_hazard(tmp_path):
    before = everything(
        UNSAFE[name][0] for name in ("thread", "native thread", "child process", "listener", "pipe", "epoll")
    )
    assert scan('file = open("audit.txt", "w")', tmp_path, before=before)[0][0] == "open-file"


PATCH = "from gevent import monkey; monkey.patch_all()"


@pytest.mark.parametrize(
    "code",
    [
        "import gevent; greenlet = gevent.spawn(gevent.sleep, 60)",
        "import gevent; greenlet = gevent.spawn(gevent.sleep, 60); gevent.sleep(0)",
        "import threading; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    ],
)
def test_a_living_greenlet_is_a_hazard_under_gevent(code, tmp_path):
    (found,) = scan(code, tmp_path, before=PATCH)
    assert found[0] == "greenlet"
    assert "which runs " in found[1]


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import gevent; gevent.sleep(0.001)",
        "import gevent; gevent.spawn(len, ()).join()",
        "import gevent; gevent.Greenlet(len, ())",
        "import threading; t = threading.Thread(target=len, args=((),)); t.start(); t.join()",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    ],
)
def test_a_patched_process_without_greenlets_is_fit(code, tmp_path):
    assert scan(code, tmp_path, before=PATCH) == []


def test_threads_of_gevents_pool_are_threads(tmp_path):
    code = "import gevent; gevent.get_hub().threadpool.apply(len, ((),))"
    (found,) = scan(code, tmp_path, before=PATCH)
    assert found[0] == "thread"
    assert "threadpool.py" in found[1]


def test_a_real_socket_is_found_under_gevent(tmp_path):
    (found,) = scan('import socket; server = socket.create_server(("127.0.0.1", 0))', tmp_path, before=PATCH)
    assert found[0] == "socket"


def test_a_greenlet_is_found_after_gc_freeze(tmp_path):
    code = "import gc, gevent; greenlet = gevent.spawn(gevent.sleep, 60); gevent.sleep(0); gc.freeze()"
    assert scan(code + "; frozen = gc.get_freeze_count()", tmp_path, before=PATCH)[0][0] == "greenlet"


def test_the_scan_changes_no_flag_of_a_socket(tmp_path):
    code = """
    import socket
    server = socket.create_server(("127.0.0.1", 0))
    socket.setdefaulttimeout(5)
    hazards(baseline)
    assert os.get_blocking(server.fileno())
    """
    assert len(scan(code, tmp_path)) == 1


def test_a_look_that_needs_a_process_when_there_is_none_says_nothing_of_the_application(tmp_path):
    """There is a thread to test, and no process may be made any more."""
    code = """
    import resource
    os.setgid(65534)
    os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    """
    with pytest.raises(AssertionError, match="BlockingIOError"):
        scan(textwrap.dedent(UNSAFE["thread"][0]) + textwrap.dedent(code), tmp_path)


def test_without_proc_each_part_says_that_it_was_not_looked_at(tmp_path):
    code = """
    import ctypes
    assert ctypes.CDLL(None).unshare(0x20000) == 0
    os.system("mount --make-rprivate / && mount -t tmpfs none /proc")
    """
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    found = scan(code, tmp_path)
    assert {kind for kind, _ in found} == {"not-examined"}
    assert {part for _, text in found for part in ("threads", "descriptors") if part in text} == {
        "threads",
        "descriptors",
    }


def test_a_hazard_reads_as_kind_and_text():
    assert str(Hazard(HazardKind.OPEN_FILE, "/srv/audit.txt")) == "open-file: /srv/audit.txt"
