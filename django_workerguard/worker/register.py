"""The register of a worker's seat: the requests in hand. Runs in the worker.

Each entry has one writer, the request that it belongs to. It is complete before its start is written, and the start is
erased first, so a reader that finds the same start before and after has read one request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from struct import Struct

from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import WORD
from django_workerguard.scoreboard.in_hand import NO_LIMIT
from django_workerguard.scoreboard.layout import ENTRIES, Entry, Seat
from django_workerguard.worker.view_memory import ENDED, ViewTable

ENTRY_BITS = ENTRIES.bit_length()
ENTRY_MASK = (1 << ENTRY_BITS) - 1
ENTRY_BYTES = Entry.WORDS * WORD
TASK_AT = Entry.TASK * WORD
VIEW_AT = Entry.VIEW * WORD
VIEW_BYTES = ENTRY_BYTES - VIEW_AT
ALONE = ENTRIES - 1  # free entries while one request is in hand
NO_ENTRY = ENTRIES  # in place of the number of an entry
NO_REQUEST = NO_ENTRY  # the token of no request at all

# TASK, LIMIT, TARGET, and the first word of VIEW; a text that is too long is cut
_write_entry = Struct(f"=QQ{(Entry.VIEW - Entry.TARGET) * WORD}sQ").pack_into
_write_task = Struct("=Q").pack_into
_write_view = Struct(f"={VIEW_BYTES}s").pack_into

# the token of the request that the calling code serves; tasks and threads that it starts may outlive it
current_request: ContextVar[int] = ContextVar("workerguard_request", default=NO_REQUEST)


def start_of(token: int) -> int:
    """Return the start of the request that a token stands for, in nanoseconds; 0 for NO_REQUEST."""
    return token >> ENTRY_BITS


def token_of(started: int, number: int) -> int:
    """Return the token of the request in an entry."""
    return started << ENTRY_BITS | number


class Register:
    """The writer of one seat's register.

    A *token* stands for one request: its start in nanoseconds and the number of its entry, in one integer.
    ``identity`` returns that of the calling thread, greenlet or task.
    """

    def __init__(
        self,
        board: Board,
        seat: int,
        identity: Callable[[], int] = threading.get_ident,
        memory: ViewTable | None = None,
    ) -> None:
        self._identity = identity
        self._has_tasks = identity is not threading.get_ident
        self._words = board.words
        self._bytes = board.bytes
        self._started = board.layout.started(seat)
        self._entries = board.layout.entry(seat, 0) * WORD
        self._not_entered = board.layout.seat(seat) + Seat.NOT_ENTERED
        self._free = list(range(ENTRIES))[::-1]
        self._is_kept = False
        # tokens of requests that still run after their response is complete, and of websockets
        self.answered: set[int] = set()
        self.websockets: set[int] = set()
        self._memory = memory or ViewTable(board, seat)
        self._views: dict[str, bytes] = {}  # the names of the site's views, encoded

    def begin(self, target: bytes) -> int:
        """Enter a request, if there is room, and return its token. ``target``: method, space, path."""
        try:
            number = self._free.pop()
        except IndexError:
            self._words[self._not_entered] += 1
            return monotonic_ns() << ENTRY_BITS | NO_ENTRY
        _write_entry(self._bytes, self._entries + number * ENTRY_BYTES, self._identity(), 0, target, 0)
        self._words[self._started + number] = started = monotonic_ns()
        token = started << ENTRY_BITS | number
        current_request.set(token)
        memory = self._memory
        if memory.token or started >= memory.due:
            self._measure(token, started)
        return token

    def _measure(self, token: int, started: int) -> None:
        """Measure what a request adds to the memory if no other is in hand. Another thread may begin one meanwhile."""
        memory = self._memory
        if memory.token == ENDED:
            memory.settle()
            if started < memory.due:
                return
        if memory.token:
            memory.spoil(started)
            return
        # before the look at the others: a thread that begins a request after this finds the token
        memory.token = token
        if len(self._free) != ALONE:
            memory.spoil(started)
            return
        memory.begin(started)

    def keep(self) -> None:
        """Take out the requests that are answered, and no other any more: what this process has in hand is lost."""
        while self.answered:
            self.end(self.answered.pop())
        self._is_kept = True

    def finish(self) -> None:
        """Keep the requests in hand on record: the event loop ends and cancels them. Websockets end with their worker."""
        if not self._is_kept:
            self.answered |= self.websockets
            self.keep()

    def end(self, token: int) -> None:
        """Take a request out."""
        number = token & ENTRY_MASK
        if token == self._memory.token:
            self._memory.end(token)
        if number != NO_ENTRY and (not self._is_kept or token in self.answered):
            self._words[self._started + number] = 0
            self._free.append(number)

    def name_view(self, name: str) -> None:
        """Write the name of the view that serves the request of the calling code; its end, if it is too long.

        The caller is what serves the request from now on: Django has an asyncio task of its own for it.
        """
        token = current_request.get()
        number = token & ENTRY_MASK
        if number != NO_ENTRY and self._words[self._started + number] == token >> ENTRY_BITS:
            entry = self._entries + number * ENTRY_BYTES
            _write_view(self._bytes, entry + VIEW_AT, self._views.get(name) or self._encoded(name))
            if token == self._memory.token:
                self._memory.view = name
            if self._has_tasks:
                _write_task(self._bytes, entry + TASK_AT, self._identity())

    def _encoded(self, name: str) -> bytes:
        self._views[name] = encoded = name.encode(errors="replace")[-VIEW_BYTES:]
        return encoded

    def limit(self, token: int, seconds: float) -> bool:
        """Set the limit of a request to so many seconds from now; 0: no limit. Return whether the request is in hand."""
        if not self._is_in_hand(token):
            return False
        limit = monotonic_ns() + int(seconds * 1e9) if seconds else NO_LIMIT
        self._words[self._at(token) // WORD + Entry.LIMIT] = min(limit, NO_LIMIT)
        return True

    def _at(self, token: int) -> int:
        return self._entries + (token & ENTRY_MASK) * ENTRY_BYTES

    def _is_in_hand(self, token: int) -> bool:
        number = token & ENTRY_MASK
        return number != NO_ENTRY and self._words[self._started + number] == start_of(token)


class _Process:
    register: Register | None = None


def current_register() -> Register | None:
    """Return the register of the worker that this code runs in; None in other processes."""
    return _Process.register


def finish_register() -> None:
    """Keep the requests in hand on record, if this worker has served: its event loop is about to cancel them."""
    if _Process.register is not None:
        _Process.register.finish()


def set_current_register(register: Register) -> None:
    """Record which register this process writes. For the server's worker classes, and for tests."""
    _Process.register = register
