"""Two tutorials, done as they are written: their commands in a fresh project, and what they print, by its shape."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.harness import ROOT, TIMEOUT

FIRST_STEPS = (ROOT / "docs" / "tutorial" / "first-steps.md").read_text()
LESS_MEMORY = (ROOT / "docs" / "tutorial" / "less-memory.md").read_text()
BLOCK = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent


def blocks(language: str, page: str = FIRST_STEPS) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(page) if block["language"] == language]


def printed(command: str, page: str = FIRST_STEPS) -> list[list[str]]:
    """Return what the page shows below a command, each time that it calls it."""
    found = []
    for block in blocks("console", page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            called, _, output = part.partition("\n")
            if called == command:
                found.append(output.splitlines())
    return found


def commands(page: str) -> list[str]:
    """Return the commands of a page."""
    return [
        line[2:] for block in blocks("console", page) for line in block.splitlines() if line.startswith("$ ")
    ]


def shape(line: str) -> str:
    """Return a line without what differs from run to run: numbers, names of hosts, widths."""
    line = re.sub(r" on \S+:", " on HOST:", line)
    line = re.sub(r"/\S+/threading.py", "threading.py", line)
    line = re.sub(r"[\d.:]*\d[\d.:]*", "N", line)
    return " ".join(line.split())


class Reader:
    """Somebody who follows the page in an empty directory."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory, self.port = directory, port
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DJANGO_", "TZ", "WORKERGUARD"))},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RUNTIME_DIRECTORY": str(directory / "run"),
        }
        (directory / "run").mkdir(mode=0o700)

    def do(self, command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", command.replace("8000", str(self.port))],
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, done
        return done.stdout.replace(str(self.port), "8000")

    def until(self, text: str, command: str) -> str:
        deadline = time.monotonic() + TIMEOUT
        while text not in (told := self.do(command)):
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        return told

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a server in the first terminal. What it says is in the file `log`."""
        (self.directory / "log").unlink(missing_ok=True)
        with self.running(command.replace("8000", str(self.port)), "log") as server:
            yield server

    @contextlib.contextmanager
    def running(self, command: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a program in a terminal of its own. What it says is added to the file with this name."""
        with (self.directory / name).open("ab") as log:
            server = subprocess.Popen(
                command.split(),
                cwd=self.directory,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            print((self.directory / name).read_text())

    def write_settings(self) -> None:
        """Do what the page says of the settings: lines in front of two lists, and the setting."""
        path = self.directory / "mysite" / "settings.py"
        text, (told, *_) = path.read_text(), blocks("python")
        for name in ("INSTALLED_APPS", "MIDDLEWARE"):
            first = re.search(rf"{name} = \[\n(.*)\n", told)
            assert first is not None
            text = text.replace(f"{name} = [\n", f"{name} = [\n{first[1]}\n")
        path.write_text(text + told[told.index("WORKERGUARD =") :])

    def write_urls(self) -> None:
        (self.directory / "mysite" / "urls.py").write_text(blocks("python")[1])


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
        assert [shape(line) for line in table[1:4]] == [shape(line) for line in well[1:4]]
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


FINDING = re.compile("(critical|warning|notice): ")


def same_table(shown: list[str], table: list[str]) -> None:
    """Compare the first lines, without the findings, and the columns."""
    shown, table = ([line for line in lines if not FINDING.match(line)] for lines in (shown, table))
    first = [shape(lines[0]).split(" on ")[-1].partition(", up ")[0] for lines in (shown, table)]
    assert first[0] == first[1]
    # a start that took more than ten seconds has numbers of the last minute
    where = [shape(lines[1]).partition("; last minute")[0] for lines in (shown, table)]
    assert where[0] == where[1]
    headings = [[line.split() for line in lines if line.startswith("SLOT")] for lines in (shown, table)]
    assert headings[0] == headings[1]


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
