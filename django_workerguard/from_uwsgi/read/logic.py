"""uWSGI's ``if-…`` and ``for-…`` blocks: what a line in a block becomes. Runs in the command."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from django_workerguard.from_uwsgi.directive import Place, ReadError, State
from django_workerguard.from_uwsgi.read.file import UnreadableFileError, read_text
from django_workerguard.from_uwsgi.read.machine import Machine
from django_workerguard.values import value_class

ENDS = frozenset({"end", "endfor", "endif", "end-if", "end-for"})
SYNONYMS = {
    "ifenv": "if-env",
    "ifexists": "if-exists",
    "ifplugin": "if-plugin",
    "ifdir": "if-dir",
    "if-directory": "if-dir",
}
LOOPS = frozenset({"for", "for-glob", "for-times", "for-readline"})
MOST_ROUNDS = 10_000
CURRENT = "%(_)"
# what is true of the plugins of the builds that serve Python: they hold Python and HTTP
PLUGINS = frozenset({"python", "python3", "http", "gevent", "corerouter"})


@value_class
class Block:
    """An open block: the option that opened it, its argument, and its line."""

    name: str
    argument: str
    place: Place


@value_class
class Round:
    """The value of a line in one round of a block, or the reason why it does not apply."""

    value: str = ""
    state: State = State.SET
    remark: str = ""


# whether it is met, None if that is not evaluated here, and what %(_) stands for
LookUp = Callable[[str], "str | None"]
Condition = Callable[[str, LookUp, Machine], "tuple[bool | None, str | None]"]


def opens(key: str) -> str:
    """Return the block that a key opens, by its first name; "" for another key."""
    name = SYNONYMS.get(key, key)
    kind = name.removeprefix("if-").removeprefix("not-")
    return name if name in LOOPS or (name.startswith("if-") and kind in CONDITIONS) else ""


def rounds(block: Block, value: str, look_up: LookUp, machine: Machine) -> Iterator[Round]:
    """Yield what a line in a block becomes: one round for each pass of a loop, one for a condition."""
    if block.name not in LOOPS:
        yield _condition(block, value, look_up, machine)
        return
    items = _items(block, machine)
    for item in items:
        yield Round(value.replace(CURRENT, item))
    if not items:
        remark = f"{block.name} = {block.argument} (line {block.place.line}) has no rounds"
        yield Round(value, State.SKIPPED, remark)


def _condition(block: Block, value: str, look_up: LookUp, machine: Machine) -> Round:
    kind = block.name.removeprefix("if-")
    negated = kind.startswith("not-")
    met, current = CONDITIONS[kind.removeprefix("not-")](block.argument, look_up, machine)
    head = f"{block.name} = {block.argument} (line {block.place.line})" if block.argument else block.name
    if met is None:
        return Round(value, State.UNKNOWN, f"{head} is not evaluated here")
    if met == negated:
        return Round(value, State.UNMET, f"{head} is not met here")
    return Round(value if current is None else value.replace(CURRENT, current))


def _items(block: Block, machine: Machine) -> list[str]:
    match block.name:
        case "for":
            items = [word for word in block.argument.split(" ") if word]
        case "for-glob":
            items = machine.matches(block.argument)
        case "for-times":
            found = re.match(r"\s*\+?(\d{1,9})", block.argument)
            times = int(found[1]) if found else 0
            items = [str(number) for number in range(1, min(times, MOST_ROUNDS + 1) + 1)]
        case _:
            try:
                items = [line[:1023] for line in read_text(machine.absolute(block.argument)).splitlines()]
            except UnreadableFileError as error:
                raise ReadError(
                    block.place, f"for-readline: {block.argument!r} cannot be read: {error}"
                ) from None
    if len(items) > MOST_ROUNDS:
        raise ReadError(block.place, f"the loop has more than {MOST_ROUNDS} rounds")
    return items


def _against(argument: str, look_up: LookUp) -> tuple[bool, str | None]:
    """Compare ``name`` or ``name=value`` with what a look-up returns."""
    name, equal, wanted = argument.partition("=")
    value = look_up(name)
    return value is not None and (not equal or value == wanted), value


def _environment(argument: str, look_up: LookUp, machine: Machine) -> tuple[bool, str | None]:
    return _against(argument, machine.environ.get)


def _option(argument: str, look_up: LookUp, machine: Machine) -> tuple[bool, str | None]:
    return _against(argument, look_up)


def _hostname_matches(pattern: str, look_up: LookUp, machine: Machine) -> tuple[bool | None, str | None]:
    """Match only patterns without repetition, because a pattern of a file could take for ever."""
    if re.fullmatch(r"\^?(?:[\w-]|\\?\.)+\$?", pattern) is None:
        return None, pattern
    return re.search(pattern, machine.hostname) is not None, pattern


CONDITIONS: Mapping[str, Condition] = {
    "env": _environment,
    "opt": _option,
    "reload": lambda argument, look_up, machine: (False, None),
    "hostname": lambda argument, look_up, machine: (argument == machine.hostname, argument),
    "hostname-match": _hostname_matches,
    "exists": lambda argument, look_up, machine: (machine.exists(argument), argument),
    "plugin": lambda argument, look_up, machine: (argument in PLUGINS, argument),
    "file": lambda argument, look_up, machine: (machine.is_file(argument), argument),
    "dir": lambda argument, look_up, machine: (machine.is_directory(argument), argument),
}
