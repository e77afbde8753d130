"""``python -m django_workerguard.cli``: the ``workerguard`` command if its script is not installed. Runs in a process of its own."""

import sys

from django_workerguard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
