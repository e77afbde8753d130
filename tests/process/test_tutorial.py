"""Two tutorials, done as they are written: their commands in a fresh project, and what they print, by its shape."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request

import pytest

from tests.process.harness import ROOT, TIMEOUT
from tests.process.tutorials import (
    LESS_MEMORY,
    Reader,
    commands,
    printed,
    same_table,
    shape,
    without_numbers,
)


@pytest.fixture
def reader(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    return Reader(tmp_path, port)


@pytest.mark.timeout(240)  # a start and three loads, on a machine that may be busy
def test_first_steps(reader):
    reader.do("django-admin startproject mysite .")
    reader.write_settings()
    reader.write_urls()
    reader.do("python manage.py check")
    reader.do("python manage.py migrate")
    (shown,) = printed("python manage.py serve_guarded --check")
    checked = reader.do("python manage.py serve_guarded --check").splitlines()
    assert [shape(line) for line in checked] == [shape(line) for line in shown]

    with reader.serving("python manage.py serve_guarded 127.0.0.1:8000") as server:
        table = reader.until("2 of 2 ready", "workerguard status || true").splitlines()
        well, frozen = printed("workerguard status")
        assert [shape(line).split(" on ")[1] for line in table[:1]] == [
            shape(line).split(" on ")[1] for line in well[:1]
        ]
        assert [without_numbers(line) for line in table[1:4]] == [without_numbers(line) for line in well[1:4]]
        assert len(table) == len(well)
        with urllib.request.urlopen(f"http://127.0.0.1:{reader.port}/health/ready/", timeout=20) as answer:
            assert answer.read() == b"ok\n"
        (started,) = printed("python manage.py serve_guarded 127.0.0.1:8000")
        said = (reader.directory / "log").read_text().replace(str(reader.port), "8000").splitlines()
        assert {shape(line) for line in started} == {shape(line) for line in said}

        reader.do("echo 'import nothere' >> mysite/urls.py")
        os.kill(server.pid, signal.SIGHUP)
        told = reader.until("frozen: ", "workerguard status").splitlines()
        (warning,) = [line for line in frozen if line.startswith("warning: frozen")]
        assert shape(warning).rpartition(")")[0] in " ".join(shape(line) for line in told)
        assert "No module named 'nothere'" in reader.do("workerguard explain 1; workerguard explain 2")
        reader.write_urls()
        events = reader.until("reloaded ", "workerguard events")
        (shown,) = printed("workerguard events")
        for line in shown[1:]:
            name = line.split()[1]
            assert re.search(rf"Z {name} ", events), f"no event {name}"

        os.kill(server.pid, signal.SIGTERM)
        assert server.wait(TIMEOUT) == 0


def same_steps(shown: list[str], checked: list[str]) -> None:
    assert [shape(line) for line in checked] == [shape(line) for line in shown]


@pytest.mark.timeout(300)
def test_less_memory(reader):
    shutil.copytree(
        ROOT / "example_project",
        reader.directory,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("db.sqlite3*", "faults", "broker", "__pycache__"),
    )
    reader.do("python manage.py migrate --verbosity 0")
    lazily, forked, without_a_mold = printed("workerguard status", LESS_MEMORY)
    (summing,) = (one for one in commands(LESS_MEMORY) if "Pss" in one)
    check = "python manage.py serve_guarded --check --load auto"
    fit, unfit = printed(check, LESS_MEMORY)

    def status() -> dict:
        return json.loads(reader.do("workerguard status --json"))

    def mb(server: subprocess.Popen[bytes]) -> int:
        return int(reader.do(f"arbiter={server.pid}; {summing}").split()[0])

    with reader.serving("python manage.py serve_guarded 127.0.0.1:8000 --workers 8") as server:
        same_table(lazily, reader.until("8 of 8 ready", "workerguard status || true").splitlines())
        before = mb(server)
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(TIMEOUT) == 0

    same_steps(fit, reader.do(check).splitlines())

    command = "python manage.py serve_guarded 127.0.0.1:8000 --workers 8 --load auto"
    with reader.serving(command) as server:
        table = reader.until("8 of 8 ready", "workerguard status || true").splitlines()
        same_table(forked, table)
        assert shape(table[2]) == shape(forked[2])
        assert mb(server) < before
        (started,) = printed(command, LESS_MEMORY)
        said = (reader.directory / "log").read_text().replace(str(reader.port), "8000").splitlines()
        assert {shape(line) for line in started} - {"…"} <= {shape(line) for line in said}

        reader.do("python fault.py fail-loads-until 120")
        gone = [slot["pid"] for slot in status()["slots"][:2]]
        reader.do(f"kill -9 {gone[0]} {gone[1]}")
        ready = "workerguard events | grep ' ready '"
        (shown,) = printed(ready, LESS_MEMORY)
        reader.until(
            "8 of 8 ready",
            "workerguard events | grep -c ' ready ' | grep -q 10 && workerguard status || true",
        )
        words = [shape(line).split("Z ")[-1] for line in reader.do(ready).splitlines()[-2:]]
        assert {re.sub(r"slot=N.*(load_seconds)", r"\1", word.partition("steps")[0]) for word in words} == {
            re.sub(r"slot=N.*(load_seconds)", r"\1", shape(line).split("Z ")[-1].partition("steps")[0])
            for line in shown[1:]
        }

        reader.do(f"kill -9 {status()['mold']['pid']}")
        table = reader.until("the mold cannot load the application", "workerguard status").splitlines()
        same_table(without_a_mold, table)
        assert "MemoryError: the fault fail-loads-until is on" in table[1]
        reader.do("python fault.py clear")
        reader.until("mold: ready", "workerguard status")
        assert reader.do("workerguard events | grep mold-").splitlines()[-1].split()[1] == "mold-ready"
        os.kill(server.pid, signal.SIGINT)
        assert server.wait(TIMEOUT) == 0

    (thread,) = (one for one in commands(LESS_MEMORY) if one.startswith("echo"))
    reader.do(thread)
    same_steps(unfit, reader.do(check).splitlines())
