"""What the arbiter and a probe weigh."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.process.harness import PROJECT, ROOT

HEAVY = {
    "django",
    "gunicorn",
    "json",
    "argparse",
    "dataclasses",
    "asyncio",
    "typing",
    "pathlib",
    "socket",
    "enum",
    "re",
}


def test_the_arbiter_is_light_and_has_one_thread(serve):
    server = serve("-w", "4")
    server.wait_ready()
    server.statuses(20)
    told = Path(f"/proc/{server.arbiter}/status").read_text()
    assert re.search(r"^Threads:\s+1$", told, re.MULTILINE)
    # the pages of files, such as Python itself, are another 10 MB, which all processes share
    assert int(re.search(r"^RssAnon:\s+(\d+) kB$", told, re.MULTILINE)[1]) <= 20 * 1024


def test_a_probe_imports_next_to_nothing(serve):
    server = serve()
    server.wait_ready()
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "WORKERGUARD_RUN_DIR": str(server.run_dir)}
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c"]
    code = f"import sys; sys.path.append({str(ROOT)!r}); from django_workerguard.cli.main import main; sys.exit(main(['probe', 'ready']))"
    told = subprocess.run(
        [*command, code], cwd=PROJECT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert told.returncode == 0, told
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert not HEAVY & imported, HEAVY & imported
