"""Starts that are expected to end by themselves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.process.harness import PROJECT, ROOT, TIMEOUT

SERVE = ("-m", "django_workerguard", "serve")
MANAGE = ("manage.py", "serve_guarded")
ERROR = re.compile(r"^(?:Command)?Error: .+$", re.MULTILINE)


@dataclass
class Outcome:
    code: int
    out: str
    err: str
    left: list[str]

    @property
    def error(self) -> str:
        """The one line, without its first word."""
        lines = ERROR.findall(self.err)
        assert len(lines) == 1, self.err
        return str(lines[0]).partition(": ")[2]


@dataclass
class Project:
    """A copy of the project that may be written into, and a run directory."""

    path: Path
    run_dir: Path
    environ: dict[str, str]

    @classmethod
    def copied(cls, directory: Path) -> Project:
        run_dir = directory / "run"
        run_dir.mkdir()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("WORKERGUARD_", "DJANGO_", "GUNICORN_"))
        }
        ours = {
            "PYTHONPATH": str(ROOT),
            "DJANGO_SETTINGS_MODULE": "guinea_settings",
            "RUNTIME_DIRECTORY": str(run_dir),
        }
        return cls(Path(shutil.copytree(PROJECT, directory / "project")), run_dir, {**inherited, **ours})

    def run(self, *arguments: str, command: tuple[str, ...] = SERVE, **environ: str) -> Outcome:
        """Run a start that is expected to end by itself."""
        ended = subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=self.path,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        return Outcome(ended.returncode, ended.stdout, ended.stderr, sorted(os.listdir(self.run_dir)))

    def write(self, name: str, text: str) -> str:
        (self.path / name).write_text(text)
        return str(self.path / name)

    def add_setting(self, text: str) -> None:
        with (self.path / "guinea_settings.py").open("a") as file:
            file.write(f"\n{text}\n")
