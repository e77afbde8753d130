"""A mold in one process, for one library: load, settle, scan, fork workers, and say how each has ended.

Its input is JSON: the code of the load, the code of each worker (which knows its number as `worker`), and how many.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback

PR_SET_CHILD_SUBREAPER = 36
WORKER_SECONDS = 40


def main():
    order = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    from django_workerguard.sentinel.fork_safety import Baseline, hazards

    baseline = Baseline.now()
    import django
    from django.conf import settings

    settings.configure(**order["settings"])
    django.setup()
    names = {"__name__": "shop"}
    exec(order["load"], names)
    from django_workerguard.sentinel.settle import resume, settle

    settle()
    found = [str(hazard) for hazard in hazards(baseline)]
    forked = (
        [] if found else [fork(names, number, order["work"], resume) for number in range(order["workers"])]
    )
    ends = [wait(pid) for pid in forked]
    again = [] if found else [str(hazard) for hazard in hazards(baseline)]
    print(json.dumps({"hazards": found, "again": again, "ends": ends}), flush=True)
    os._exit(0)


def fork(names, number, work, resume):
    from django_workerguard.worker.double_fork import double_fork

    pid = double_fork().worker
    if pid:
        return pid
    signal.alarm(WORKER_SECONDS)  # a worker that hangs is killed, and its end says so
    try:
        resume()
        names["worker"] = number  # in the load's own names: a start binds some of them again
        exec(work, names)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
