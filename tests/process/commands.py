"""The `workerguard` commands, as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.process.harness import PROJECT, ROOT, Server


def workerguard(*arguments: str, run_dir: Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RUNTIME_DIRECTORY": str(run_dir),
        "XDG_RUNTIME_DIR": "",
    }
    command = [sys.executable, "-m", "django_workerguard.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=60)


def order(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return workerguard(*arguments, run_dir=server.run_dir, cwd=server.project)
