"""``python -m django_workerguard.cli``: the ``workerguard`` command where no script of that name is installed."""

import sys

from django_workerguard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
