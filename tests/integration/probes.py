"""Load probes that say no."""

calls: list[str] = []


def fail() -> None:
    raise RuntimeError("the probe says no")


def fail_once() -> bool:
    calls.append("called")
    return len(calls) > 1


def say_no() -> bool:
    return False
