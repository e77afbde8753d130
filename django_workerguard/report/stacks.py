"""Read a dump of stacks, and say which request each thread, greenlet and task serves. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from django_workerguard.report.tables import span
from django_workerguard.scoreboard.in_hand import InHand
from django_workerguard.values import value_class

HEADING = re.compile(
    r"(?P<kind>Current thread|Thread|Greenlet|Task) 0x(?P<identity>[0-9a-f]{1,16})(?: \[(?P<name>.*)\])?"
    r" \(most recent call first\):"
)
MAIN_ALONE = "Stack (most recent call first):"
SERVES = re.compile(r"Thread 0x(?P<identity>[0-9a-f]{1,16}) serves (?P<started>[0-9]{1,20})")


@value_class
class Stack:
    """The stack of one thread, greenlet or task: its frames as faulthandler writes them, the innermost first."""

    kind: str
    identity: int
    name: str
    frames: tuple[str, ...]
    serves: frozenset[int] = (
        frozenset()
    )  # the starts of the requests for which a thread runs a synchronous view

    def request_among(self, requests: Iterable[InHand]) -> InHand | None:
        """Return the request that it serves."""
        for request in requests:
            if request.started in self.serves or (
                request.task == self.identity and ("thread" not in self.kind.lower() or not self.serves)
            ):
                return request
        return None


def read_stacks(dump: str, *, main: int = 0) -> list[Stack]:
    """Read a dump; what is not understood is left out. Of two stacks of one thread, the later one counts.

    ``main``: the identity of the main thread, which faulthandler leaves out if it writes only that one.
    """
    serves: dict[int, set[int]] = {}
    found: list[tuple[str, int, str, list[str]]] = []
    for line in dump.splitlines():
        if heading := HEADING.fullmatch(line):
            found.append((heading["kind"], int(heading["identity"], 16), heading["name"] or "", []))
        elif line == MAIN_ALONE:
            found.append(("Current thread", main, "", []))
        elif served := SERVES.fullmatch(line):
            serves.setdefault(int(served["identity"], 16), set()).add(int(served["started"]))
        elif line.startswith("  ") and found:
            found[-1][3].append(line)
    latest = {
        (kind.rpartition(" ")[2].lower(), identity): number
        for number, (kind, identity, _, _) in enumerate(found)
    }
    return [
        Stack(kind, identity, name, tuple(frames), frozenset(serves.get(identity, ())))
        for kind, identity, name, frames in (found[number] for number in sorted(latest.values()))
    ]


def stacks_of(request: InHand, stacks: Iterable[Stack]) -> list[Stack]:
    """Return the stacks that serve a request, a thread before the task that waits for it."""
    serving = [stack for stack in stacks if stack.request_among([request])]
    return sorted(serving, key=lambda stack: stack.kind == "Task")


def render(stacks: Sequence[Stack], requests: Sequence[InHand], now: int, *, everything: bool) -> str:
    """Render the stacks for people: those that serve a request and the current thread's, or ``everything``."""
    parts = []
    for stack in stacks:
        request = stack.request_among(requests)
        if request is None and not everything and stack.kind != "Current thread":
            continue
        name = f" [{stack.name}]" if stack.name else ""
        lines = [f"{stack.kind} 0x{stack.identity:x}{name}{_served(request, now)}:", *stack.frames]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _served(request: InHand | None, now: int) -> str:
    if request is None:
        return ""
    age = request.age(now)
    view = f", {request.view}" if request.view else ""
    return f" serves {request.target} for {f'{age:.1f} s' if age < 60 else span(age)}{view}"


def shortened(stacks: Iterable[Stack], room: int) -> str:
    """Return the innermost frames in one line of at most ``room`` characters, each as ``file:line function``."""
    text = ""
    for stack in stacks:
        for frame in stack.frames:
            if match := FRAME.fullmatch(frame):
                one = f"{match['file'].rpartition('/')[2]}:{match['line']} {match['function']}"
                longer = f"{text} < {one}" if text else one
                if len(longer) > room:
                    return text
                text = longer
    return text


FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>[0-9?]+) in (?P<function>.*)')
