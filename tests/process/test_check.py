"""`serve_guarded --check`: the load of a worker, and whether workers can be forked from the application."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import LONG_ENOUGH, TIMEOUT, WORKER_CLASSES
from tests.process.short_starts import SERVE

FIT = "Workers can be forked from the application."
UNFIT = "No worker can be forked from the application"
PAIR = """
from concurrent.futures import ThreadPoolExecutor
from django_workerguard import mold

executor = ThreadPoolExecutor(1)
executor.submit(int).result()

def start():
    global executor
    executor = ThreadPoolExecutor(1)
    print("started again", flush=True)

mold.pause(stop=lambda: executor.shutdown(), start=start)
"""


def steps(out: str) -> list[str]:
    return [line.split()[0] for line in out.splitlines() if " ms " in line]


@pytest.mark.parametrize("load", ["mold", "auto"])
@pytest.mark.parametrize("worker_class", WORKER_CLASSES.values(), ids=WORKER_CLASSES)
def test_it_forks_a_worker_from_a_fit_application(project, worker_class, load):
    outcome = project.run("--check", "--load", load, "-k", worker_class, "--warmup-path", "/")
    assert outcome.code == ExitCode.OK, outcome.err
    assert FIT in outcome.out
    assert "The application loads" in outcome.out
    shown = steps(outcome.out)
    assert (shown[0], shown[-3:]) == ("app", ["settle", "resume", "warmup:/"])
    assert outcome.left == []


@pytest.mark.parametrize(("load", "code"), [("mold", ExitCode.USAGE), ("auto", ExitCode.OK)])
def test_it_names_each_hazard(project, load, code):
    project.write(
        "guinea_urls.py", "import socket; listener = socket.create_server(('127.0.0.1', 0))\nurlpatterns = []"
    )
    outcome = project.run("--check", "--load", load, GUINEA_SCHEDULER="the-scheduler")
    assert outcome.code == code, outcome.err
    hazards = [line for line in outcome.out.splitlines() if line.startswith("hazard: ")]
    assert [line.split()[1] for line in hazards] == ["thread:", "socket:"]
    assert "the-scheduler" in hazards[0]
    if load == "mold":
        assert f"load: {UNFIT.lower()}: 2 hazards (set in --load on the command line)" in outcome.error
        assert "The application loads" not in outcome.out
    else:
        assert f"{UNFIT}, so with load=auto each worker loads it by itself." in outcome.out
        assert "The application loads" in outcome.out
    assert FIT not in outcome.out


def test_a_pair_is_stopped_and_started(project):
    project.write("guinea_urls.py", PAIR + "urlpatterns = []")
    outcome = project.run("--check", "--load", "mold")
    assert outcome.code == ExitCode.OK, outcome.err
    assert FIT in outcome.out
    assert outcome.out.count("started again") == 1


def test_a_start_that_raises_fails_the_load_of_the_worker(project):
    project.write("guinea_urls.py", PAIR.replace("global executor", "1 / 0") + "urlpatterns = []")
    outcome = project.run("--check", "--load", "mold")
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "in step resume: PairError: start of the pair" in outcome.error


def test_lazy_loading_has_no_verdict_and_calls_no_pair(project):
    project.write("guinea_urls.py", PAIR + "urlpatterns = []")
    outcome = project.run("--check")
    assert outcome.code == ExitCode.OK, outcome.err
    assert "forked" not in outcome.out
    assert "started again" not in outcome.out


def test_a_server_that_reloads_on_change_loads_lazily(project):
    outcome = project.run("--check", "--load", "mold", "--", "--reload")
    assert outcome.code == ExitCode.OK, outcome.err
    assert "forked" not in outcome.out


@pytest.mark.parametrize("load", ["lazy", "mold"])
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os._exit(0)", "the process ended: exit code 0"),
        ("os._exit(2)", "the process ended: exit code 2"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process ended: killed by SIGSEGV"),
    ],
)
def test_a_load_that_ends_its_process_is_no_success(project, code, said, load):
    project.write("guinea_urls.py", f"import os, signal\n{code}")
    outcome = project.run("--check", "--load", load)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert f"the load failed in step urlconf: {said}" in outcome.error


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_a_load_that_hangs_is_ended_with_its_stacks(project, load):
    project.write("guinea_urls.py", "import time\ntime.sleep(3600)")
    outcome = project.run("--check", "--load", load, "--load-timeout", LONG_ENOUGH)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "the load failed in step urlconf: load-timeout: 8 s" in outcome.error
    assert "guinea_urls.py" in outcome.err


def test_a_worker_that_hangs_after_its_fork_is_ended_with_its_stacks(project):
    project.write("hang.py", "import time\ndef probe(): time.sleep(3600)")
    outcome = project.run(
        "--check", "--load", "mold", "--load-probe", "hang.probe", "--load-timeout", LONG_ENOUGH
    )
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "the load failed in step probe:hang.probe: load-timeout: 8 s" in outcome.error
    assert "hang.py" in outcome.err
    assert FIT in outcome.out


@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_a_load_that_hangs_in_c_is_ended_with_its_stacks(project, load):
    project.write("guinea_urls.py", "import ctypes\nctypes.PyDLL(None).sleep(3600)")
    outcome = project.run("--check", "--load", load, "--load-timeout", LONG_ENOUGH)
    assert outcome.code == ExitCode.LOAD_FAILED
    assert "the load failed in step urlconf: load-timeout: 8 s" in outcome.error
    assert "guinea_urls.py" in outcome.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("load", ["lazy", "mold"])
def test_a_check_that_is_ended_is_no_success_and_leaves_no_process(project, load, number):
    started = project.path / "started"
    project.write(
        "hang.py",
        f"import os, time\ndef probe(): open({str(started)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(3600)",
    )
    command = [sys.executable, *SERVE, "--check", "--load", load, "--load-probe", "hang.probe"]
    check = subprocess.Popen(command, cwd=project.path, env=project.environ, start_new_session=True)
    deadline = time.monotonic() + TIMEOUT
    while not started.exists() or not (pid := started.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    check.send_signal(number)
    assert check.wait(TIMEOUT) == -number
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_characters_that_the_output_cannot_show(project, encoding):
    """Of a thread's name and of a configured value: also half of a surrogate pair, which no encoding has."""
    project.write(
        "guinea_urls.py",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), name='gr\\u00fcn\\udc80', daemon=True).start()\n"
        "urlpatterns = []",
    )
    outcome = project.run("--check", "--load", "auto", PYTHONIOENCODING=encoding)
    assert outcome.code == ExitCode.OK, outcome.err
    name = r"gr\xfcn" if encoding == "ascii" else "grün"
    assert f"thread: {name}?, which runs" in outcome.out
    conf = project.write("conf.py", "proc_name = 'gr\\u00fcn\\udc80'")
    outcome = project.run("--print-config", "-c", conf, PYTHONIOENCODING=encoding)
    assert outcome.code == ExitCode.OK, outcome.err
    assert "\\udc80" in outcome.out
