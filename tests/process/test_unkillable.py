"""A process that the kernel does not end holds up neither a start nor a check."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from django_workerguard.errors import ExitCode
from tests.process.harness import TIMEOUT
from tests.process.short_starts import MANAGE, SERVE
from tests.process.tracers import traced

HANGS = """
import os, time
from pathlib import Path

def hang():
    Path("new").write_text(str(os.getpid()))
    os.rename("new", "hanging")
    time.sleep(3600)
"""
# the process that reads them for the server is the first one, or the second one after manage.py's
SETTINGS = """
from pathlib import Path
import hangs
readings = Path("readings")
readings.write_text((readings.read_text() if readings.exists() else "") + "x")
if len(readings.read_text()) == {number}:
    hangs.hang()
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("command", "number", "arguments", "code"),
    [
        (SERVE, 1, ("--print-config",), ExitCode.OK),
        (MANAGE, 2, ("--print-config",), ExitCode.OK),
        (SERVE, 0, ("--check", "--load-probe", "hangs.hang"), ExitCode.LOAD_FAILED),
    ],
    ids=["the settings", "the settings, read ahead", "a check"],
)
def test_it_ends_all_the_same(project, command, number, arguments, code):
    project.write("hangs.py", HANGS)
    project.add_setting(SETTINGS.format(number=number))
    hanging = project.path / "hanging"
    with subprocess.Popen(
        [sys.executable, *command, "--bind", "127.0.0.1:0", "--load-timeout", "5s", *arguments],
        cwd=project.path,
        env=project.environ,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + TIMEOUT
            while not hanging.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline, "nothing hangs"
                time.sleep(0.02)
            with traced(int(hanging.read_text())):
                assert process.wait(60) == code
        finally:
            process.kill()
