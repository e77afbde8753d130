"""Import a settings module, nothing else, and write its WORKERGUARD to a descriptor. Runs in a process of its own.

``python -m django_workerguard.config.read_settings MODULE FD``. Exit code 0: JSON with
``setting`` was written; else JSON with ``error``.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any

from django_workerguard.config.handover import plain


def main(module: str, fd: int) -> int:
    answer: dict[str, Any]
    try:
        answer = {"setting": getattr(import_module(module), "WORKERGUARD", {})}
        data = json.dumps(answer, default=plain)
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        data = json.dumps(answer)
    os.write(fd, data.encode())
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
