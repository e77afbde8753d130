"""A gunicorn.conf.py that writes down every import that a worker makes once it is initialised."""

import os
import sys
import time


def post_worker_init(worker):
    out = open(os.environ["IMPORTS_FILE"], "a", buffering=1)  # noqa: SIM115 - as long as the worker lives
    pid = os.getpid()

    def hook(event, arguments):
        if event == "import":
            out.write(f"{pid} {time.monotonic_ns()} {arguments[0]}\n")

    sys.addaudithook(hook)
