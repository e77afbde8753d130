"""Greenlets and event loops of this process. Runs in the mold.

They are found among the objects of the garbage collector, and only if there is a sign of one: a library that is
imported, or an epoll descriptor.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from django_workerguard.sentinel.descriptors import Descriptor
from django_workerguard.sentinel.hazard import Hazard, HazardKind
from django_workerguard.values import value_class


def objects_of(*classes: type) -> list[Any]:
    """Return the living objects of these classes, those that `gc.freeze` has hidden included.

    It looks at `type(obj)` and not at `obj.__class__`, which makes a lazy object of Django's evaluate itself.
    """
    frozen = gc.get_freeze_count()
    if frozen:
        gc.unfreeze()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), classes)]
    if frozen:
        gc.freeze()
    return found


def _objects(module: str, name: str) -> list[Any]:
    """Return the living objects of a class whose module may not be imported."""
    cls = getattr(sys.modules.get(module), name, None)
    return objects_of(cls) if cls else []


def is_patched(module: str) -> bool:
    """Return whether gevent has patched a module of the standard library."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched(module))


def place(filename: str, line: int) -> str:
    """Return file and line for people."""
    return f"{filename}:{line}"


def greenlet_ids() -> frozenset[int]:
    """Return the identities of the greenlets that are alive."""
    return frozenset(id(greenlet) for greenlet in _greenlets())


def described_greenlets(known: frozenset[int]) -> Iterator[Hazard]:
    """Yield a hazard for each greenlet of this thread that is alive, other than the main one and gevent's hub."""
    for greenlet in _greenlets():
        if id(greenlet) not in known:
            yield Hazard(HazardKind.GREENLET, f"{_name_of(greenlet)}, which runs {_code_of(greenlet)}")


def _greenlets() -> Iterator[Any]:
    library, hub = sys.modules.get("greenlet"), sys.modules.get("gevent.hub")
    if library is None or "gevent" not in sys.modules:
        return
    main = _root(library.getcurrent())
    excluded: tuple[type, ...] = (hub.Hub,) if hub else ()
    current = library.getcurrent()
    for greenlet in objects_of(library.greenlet):
        if greenlet is current or isinstance(greenlet, excluded) or greenlet.parent is None:
            continue
        # those of another thread are reported with that thread
        if _root(greenlet) is main and (greenlet or _is_scheduled(greenlet)):
            yield greenlet


def _root(greenlet: Any) -> Any:
    while greenlet.parent is not None:
        greenlet = greenlet.parent
    return greenlet


def _is_scheduled(greenlet: Any) -> bool:
    """Return whether a greenlet of gevent waits for its first turn."""
    return not greenlet.dead and bool(getattr(greenlet, "started", False))


def _name_of(greenlet: Any) -> str:
    """Return the name of the thread that a greenlet stands for since gevent has patched threading, or its class."""
    thread = getattr(getattr(greenlet, "_run", None), "__self__", None)
    return f"thread {thread.name}" if isinstance(thread, threading.Thread) else type(greenlet).__name__


def _code_of(greenlet: Any) -> str:
    code: CodeType | None = getattr(getattr(greenlet, "_run", None), "__code__", None)
    if code is not None:
        return place(code.co_filename, code.co_firstlineno)
    frame = greenlet.gr_frame
    return place(frame.f_code.co_filename, frame.f_lineno) if frame else repr(greenlet)


@value_class
class EventLoops:
    """The event loops among the new descriptors, and the descriptors that belong to them."""

    hazards: tuple[Hazard, ...] = ()
    descriptors: frozenset[Descriptor] = frozenset()

    @classmethod
    def of(cls, descriptors: Iterable[Descriptor]) -> EventLoops:
        """Find the owners of epoll descriptors: event loops, selectors and gevent's hub. The hub is no hazard."""
        by_number = {descriptor.number: descriptor for descriptor in descriptors}
        if not any(descriptor.is_epoll for descriptor in by_number.values()):
            return cls()
        found: list[Hazard] = []
        owned: set[int] = _descriptors_of_hub(by_number)
        for loop in _objects("asyncio.events", "AbstractEventLoop"):
            numbers = _descriptors_of_loop(loop)
            if not loop.is_closed() and (not numbers or numbers & by_number.keys()):
                found.append(Hazard(HazardKind.EVENT_LOOP, repr(loop)))
                owned |= numbers
        for selector in _objects("selectors", "EpollSelector"):
            number = _fileno(selector)
            if number in by_number and number not in owned:
                found.append(
                    Hazard(HazardKind.EVENT_DESCRIPTOR, f"descriptor {number}: a selector of Python")
                )
                owned.add(number)
        return cls(tuple(found), frozenset(by_number[number] for number in owned & by_number.keys()))


def _descriptors_of_loop(loop: Any) -> set[int]:
    """Return the epoll descriptor of a loop of the standard library, and the socket pair that wakes it."""
    parts = (getattr(loop, name, None) for name in ("_selector", "_ssock", "_csock"))
    return {number for part in parts if (number := _fileno(part)) >= 0}


def _descriptors_of_hub(by_number: dict[int, Descriptor]) -> set[int]:
    local = sys.modules.get("gevent._hub_local")
    hub = local.get_hub_if_exists() if local else None
    number = _fileno(getattr(hub, "loop", None))
    if number not in by_number:
        return set()
    watched = _watched(number)
    # until the hub has run, its eventfd is not registered: then the one made right after the epoll descriptor is its own
    candidates = watched or {number + 1}
    return {number} | {
        fd for fd in candidates if fd in by_number and by_number[fd].is_event and not by_number[fd].is_epoll
    }


def _watched(epoll: int) -> set[int]:
    """Return the descriptors that an epoll descriptor watches."""
    lines = Path(f"/proc/self/fdinfo/{epoll}").read_text().splitlines()
    return {int(line.split()[1]) for line in lines if line.startswith("tfd:")}


def _fileno(thing: Any) -> int:
    try:
        return int(thing.fileno())
    except Exception:
        return -1
