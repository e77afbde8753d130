#!/usr/bin/env python
"""Switch the example site's faults on and off while it runs. Runs at the shell, without Django.

fault.py fail-next-loads 6        the next 6 loads fail
fault.py fail-loads-until 30      loads fail for 30 seconds from now
fault.py hang-loads | kill-loads | fail-urlconf
fault.py tasks …                  the first four, of Celery's children instead of web workers
fault.py list | clear
"""

import sys
import time

from site_config import faults


def main(arguments: list[str]) -> int:
    whose = ""
    if arguments[:1] == ["tasks"]:
        whose, arguments = faults.TASKS, arguments[1:]
    match arguments:
        case ["list"]:
            pass
        case ["clear"]:
            faults.clear()
        case ["fail-next-loads", count] if count.isdigit():
            faults.switch_on(f"{whose}fail-next-loads", count)
        case ["fail-loads-until", seconds] if seconds.isdigit():
            faults.switch_on(f"{whose}fail-loads-until", str(int(time.time()) + int(seconds)))
        case ["hang-loads" | "kill-loads" as name]:
            faults.switch_on(whose + name)
        case ["fail-urlconf"] if not whose:
            faults.switch_on("fail-urlconf")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    for fault in faults.active():
        print(fault)
    if not faults.active():
        print("no fault is on")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
