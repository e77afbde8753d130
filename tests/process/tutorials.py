"""Somebody who does what a tutorial says, and what its page shows."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.process.harness import ROOT, TIMEOUT

FIRST_STEPS = (ROOT / "docs" / "tutorial" / "first-steps.md").read_text()
LESS_MEMORY = (ROOT / "docs" / "tutorial" / "less-memory.md").read_text()
BLOCK = re.compile(r"```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
FINDING = re.compile("(critical|warning|notice): ")
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


def without_numbers(line: str) -> str:
    """Return the shape of a line without the numbers of the last minute, which a start of more than ten seconds has."""
    return shape(line).partition("; last minute")[0]


def same_table(shown: list[str], table: list[str]) -> None:
    """Compare the first lines, without the findings, and the columns."""
    shown, table = ([line for line in lines if not FINDING.match(line)] for lines in (shown, table))
    first = [shape(lines[0]).split(" on ")[-1].partition(", up ")[0] for lines in (shown, table)]
    assert first[0] == first[1]
    where = [without_numbers(lines[1]) for lines in (shown, table)]
    assert where[0] == where[1]
    headings = [[line.split() for line in lines if line.startswith("SLOT")] for lines in (shown, table)]
    assert headings[0] == headings[1]
