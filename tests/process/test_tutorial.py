"""The first tutorial, done as it is written: its commands in a fresh project, and what they print, by its shape."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.process.harness import ROOT, TIMEOUT

PAGE = (ROOT / "docs" / "tutorial" / "first-steps.md").read_text()
BLOCK = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return [block["text"] for block in BLOCK.finditer(PAGE) if block["language"] == language]


def printed(command: str) -> list[list[str]]:
    """Return what the page shows below a command, each time that it calls it."""
    found = []
    for block in blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            called, _, output = part.partition("\n")
            if called == command:
                found.append(output.splitlines())
    return found


def shape(line: str) -> str:
    """Return a line without what differs from run to run: numbers, names of hosts, widths."""
    line = re.sub(r" on \S+:", " on HOST:", line)
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

    log = (reader.directory / "log").open("wb")
    command = ["python", "manage.py", "serve_guarded", f"127.0.0.1:{reader.port}"]
    server = subprocess.Popen(
        command, cwd=reader.directory, env=reader.environ, stdout=log, stderr=log, start_new_session=True
    )
    try:
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
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        log.close()
        print((reader.directory / "log").read_text())
