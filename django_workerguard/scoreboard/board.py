"""The scoreboard: a mapped file of words and texts. Runs in the arbiter, in workers and in readers."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django_workerguard.config.memfd import open_anonymous
from django_workerguard.errors import WorkerguardError
from django_workerguard.probe.clock import monotonic_ns
from django_workerguard.scoreboard.discovery import open_file
from django_workerguard.scoreboard.header import FEATURES, MAGIC, VERSION, WORD, Header, Vitals, path_word
from django_workerguard.scoreboard.layout import (
    ABOUT_WORDS,
    ENTRIES,
    HISTOGRAMS_WORDS,
    MAX_SEATS,
    REFUSAL_WORDS,
    TALLY_WORDS,
    TEXT_WORDS,
    VIEWS_WORDS,
    Layout,
    Seat,
    Slot,
)
from django_workerguard.scoreboard.report_text import as_json, fit, fit_about
from django_workerguard.scoreboard.sanitise import clean_about, clean_report

READ_ATTEMPTS = 50
MAKE_ATTEMPTS = 50
MAKE_PAUSE = 0.01  # seconds between two attempts
MAP_FIXED = 0x10  # Linux; the module mmap does not name it
MAX_WORD = (1 << 64) - 1  # of a word
RELEASE_BYTES = 64
REPORT_BYTES = (TEXT_WORDS - 2) * WORD
ABOUT_BYTES = (ABOUT_WORDS - 2) * WORD


class BoardError(WorkerguardError):
    """The file is not a scoreboard, is truncated, or is a scoreboard of another version."""


class Board:
    """A mapped scoreboard.

    ``words`` is a view of 64-bit words: each item is read or written as one whole word. ``bytes`` is a view of the same
    memory, for texts.
    """

    def __init__(
        self, mapping: mmap.mmap, layout: Layout, *, fd: int, path: Path | None, source: int = -1
    ) -> None:
        self._mapping = mapping
        self._source = source  # the descriptor that a copy is read from; -1: this is a mapping
        self.layout = layout
        self.fd = fd
        self.path = path
        self.bytes = memoryview(mapping)
        self.words = self.bytes.cast("Q")
        self._documents: dict[int, tuple[int, Any]] = {}

    @classmethod
    def create(cls, layout: Layout, path: Path | None, *, pid: int = 0, start: int = 0) -> Board:
        """Make a new board with every block allocated; it is anonymous if ``path`` is None.

        ``pid`` and ``start`` are the arbiter's identity. The file gets its name only when it is complete. Raises OSError
        if there is no space, no permission or no file descriptor; FileExistsError if another arbiter holds a board of
        that name.
        """
        if path is not None and is_held(path):
            raise FileExistsError(17, "another server holds a scoreboard of this name")
        unfinished = path.with_suffix(".new") if path is not None else None
        fd = open_anonymous("workerguard") if unfinished is None else _make_locked(unfinished)
        try:
            os.posix_fallocate(fd, 0, layout.size)
            board = cls(_map_to_write(fd, layout.size), layout, fd=fd, path=path)
            board._write_identity(pid, start)
            if unfinished is not None and path is not None:
                unfinished.rename(path)
        except OSError:
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)
            os.close(fd)
            raise
        return board

    def _write_identity(self, pid: int, start: int) -> None:
        for word, value in (
            (Header.MAGIC, MAGIC),
            (Header.VERSION, VERSION),
            (Header.FEATURES, FEATURES),
            (Header.SIZE, self.layout.size),
            (Header.SEATS, self.layout.seats),
            (Header.SLOTS, self.layout.slots),
            (Header.PID, pid),
            (Header.START, start),
            (Header.STARTED_AT, int(time.time() * 1e6)),
            (Header.BEAT, monotonic_ns()),  # before its first tick, too, the arbiter does not look silent
        ):
            self.words[word] = value

    @classmethod
    def open(cls, path: Path, *, others: bool = False) -> Board:
        """Map an existing board to read it. ``others``: also accept another user's board, as `discovery.open_file` does.

        Another user's board is copied, because this process would be killed if it read a mapping whose file the owner
        has truncated. `refresh` reads it again. Raises BoardError with one line that says what is wrong with the file;
        OSError.
        """
        fd = open_file(str(path), others=others)
        try:
            layout = _check(fd, path)
            if os.fstat(fd).st_uid == os.geteuid():
                mapping = mmap.mmap(fd, layout.size, prot=mmap.PROT_READ)
                os.close(fd)
                return cls(mapping, layout, fd=-1, path=path)
            board = cls(mmap.mmap(-1, layout.size), layout, fd=-1, path=path, source=fd)
            board.refresh()
        except BaseException:
            os.close(fd)
            raise
        return board

    @classmethod
    def attach(cls, fd: int) -> Board:
        """Map the board behind an inherited descriptor to read it, and close the descriptor. Raises BoardError, OSError."""
        try:
            layout = _check(fd, Path("the scoreboard"))
            mapping = mmap.mmap(fd, layout.size, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        return cls(mapping, layout, fd=-1, path=None)

    @classmethod
    def adopt(cls, path: Path) -> Board:
        """Map an existing board to go on writing it, without its lock: see `try_lock`. Raises BoardError, OSError."""
        fd = open_file(str(path), os.O_RDWR)
        try:
            layout = _check(fd, path)
            return cls(_map_to_write(fd, layout.size), layout, fd=fd, path=path)
        except BaseException:
            os.close(fd)
            raise

    def try_lock(self) -> bool:
        """Take the file's lock if no other process holds it; return whether this process holds it now."""
        try:
            return _lock(self.fd)
        except OSError:
            return False

    def unlock(self) -> None:
        """Give up the file's lock."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def is_at_its_path(self) -> bool:
        """Return whether readers find this board at its path: its file was neither removed nor replaced."""
        return self.path is not None and _is_at(self.path, self.fd)

    def refresh(self) -> None:
        """Read a copy again; a mapping is always up to date. Raises BoardError if the file was truncated."""
        if self._source < 0:
            return
        data = os.pread(self._source, self.layout.size, 0)
        if len(data) != self.layout.size:
            raise BoardError(f"{self.path} is truncated")
        self._mapping[:] = data

    def open_again(self) -> int:
        """Return a new descriptor of the file, only to read it and without the lock. Raises OSError."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def drop_lock(self) -> None:
        """Give up this child's share of the file lock: a child that outlives the arbiter must not hold it."""
        with contextlib.suppress(OSError):  # no /proc
            reopened = self.open_again()
            os.dup2(reopened, self.fd, inheritable=False)
            os.close(reopened)

    def make_private(self) -> None:
        """Replace the shared memory by a private copy at the same address. Raises OSError.

        For a process that a worker has forked: no other process sees its later writes.
        """
        size = self.layout.size
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        if libc.mmap(start, size, protection, mmap.MAP_PRIVATE | MAP_FIXED, self.fd, 0) != start:
            raise OSError(ctypes.get_errno(), "the scoreboard cannot be made private")

    def copy_from(self, other: Board) -> None:
        """Copy every word of a board with the same layout."""
        self.words[:] = other.words

    @property
    def vitals(self) -> Vitals:
        """The current numbers that a probe needs."""
        return Vitals(self.words)

    def close(self) -> None:
        """Unmap the board. Release all views of ``words`` and ``bytes`` before."""
        self.words.release()
        self.bytes.release()
        self._mapping.close()
        for fd in (self.fd, self._source):
            if fd >= 0:
                os.close(fd)

    def write_bytes(self, offset: int, data: bytes) -> None:
        """Copy bytes to the word at ``offset``."""
        self._mapping[offset * WORD : offset * WORD + len(data)] = data

    def read_bytes(self, offset: int, length: int) -> bytes:
        """Copy ``length`` bytes from the word at ``offset``."""
        return self._mapping[offset * WORD : offset * WORD + length]

    # texts: [sequence, length, bytes…]; each text has one writer, and the sequence is odd while it writes

    def write_text(self, offset: int, capacity: int, data: bytes) -> None:
        """Write a text region of ``capacity`` words at ``offset``; a text that does not fit is cut off at its end."""
        data = data[: (capacity - 2) * WORD]
        sequence = self.words[offset] | 1
        self.words[offset] = sequence
        self.words[offset + 1] = len(data)
        self.write_bytes(offset + 2, data)
        self.words[offset] = _next_sequence(sequence)

    def read_text(self, offset: int, capacity: int) -> bytes:
        """Read a text region; b"" if nothing was written or the writer died while it wrote."""
        for _ in range(READ_ATTEMPTS):
            before = self.words[offset]
            length = min(self.words[offset + 1], (capacity - 2) * WORD)
            data = self.read_bytes(offset + 2, length)
            if before % 2 == 0 and self.words[offset] == before:
                return data
        return b""

    def write_json(self, offset: int, capacity: int, value: Any) -> None:
        """Write a JSON document into a text region; it must fit."""
        self.write_text(offset, capacity, as_json(value))

    def read_json(self, offset: int, capacity: int) -> Any:
        """Read a JSON document; None if there is no valid one. The caller must not change it.

        The document is cached until it is written again, so that frequent reads are cheap.
        """
        sequence = self.words[offset]
        cached = self._documents.get(offset)
        if cached is not None and cached[0] == sequence and sequence % 2 == 0:
            return cached[1]
        try:
            document = json.loads(self.read_text(offset, capacity))
        except (ValueError, RecursionError):
            document = None
        self._documents[offset] = (sequence, document)  # the sequence from before the read, so never too new
        return document

    # regions by name

    def write_about(self, about: dict[str, Any]) -> None:
        self.words[Header.PROJECT] = path_word(str(about.get("project", "")))
        self.write_json(self.layout.about, ABOUT_WORDS, fit_about(about, ABOUT_BYTES))

    def read_about(self) -> dict[str, Any]:
        return clean_about(self.read_json(self.layout.about, ABOUT_WORDS))

    def write_refusal(self, reason: str) -> None:
        self.write_text(self.layout.refusal, REFUSAL_WORDS, reason.encode(errors="backslashreplace"))

    def read_refusal(self) -> str:
        return self.read_text(self.layout.refusal, REFUSAL_WORDS).decode(errors="ignore")

    def write_tallies(self, tallies: dict[str, Any]) -> None:
        self.write_json(self.layout.tallies, TALLY_WORDS, tallies)

    def read_tallies(self) -> dict[str, Any]:
        tallies = self.read_json(self.layout.tallies, TALLY_WORDS)
        return tallies if isinstance(tallies, dict) else {}

    def seat_text(self, index: int) -> int:
        return self.layout.seat(index) + Seat.WORDS

    def slot_text(self, number: int) -> int:
        return self.layout.slot(number) + Slot.WORDS

    def write_seat_report(self, index: int, report: dict[str, Any]) -> None:
        """Write the report of the worker in a seat: the steps of its load, and its error."""
        self.write_json(self.seat_text(index), TEXT_WORDS, fit(report, REPORT_BYTES))

    def read_seat_report(self, index: int) -> dict[str, Any]:
        return clean_report(self.read_json(self.seat_text(index), TEXT_WORDS))

    def write_last_error(self, slot: int, error: dict[str, Any], *, steps: Sequence[Any] = ()) -> None:
        """Write why the last process of a slot ended unexpectedly, with the steps that its load completed."""
        fitted = fit({"error": error, "steps": list(steps)}, REPORT_BYTES)
        self.write_json(self.slot_text(slot), TEXT_WORDS, {**fitted["error"], "steps": fitted["steps"]})

    def read_last_error(self, slot: int) -> dict[str, Any] | None:
        error = self.read_json(self.slot_text(slot), TEXT_WORDS)
        if not isinstance(error, dict):
            return None
        cleaned = clean_report(error)
        hazards = {"hazards": cleaned["hazards"]} if "hazards" in error else {}  # of a mold
        return {**error, "steps": cleaned["steps"], **hazards}

    def write_release(self, index: int, release: str) -> None:
        data = release.encode(errors="replace")[:RELEASE_BYTES].ljust(RELEASE_BYTES, b"\0")
        self.write_bytes(self.layout.seat(index) + Seat.RELEASE, data)

    def read_release(self, index: int) -> str:
        data = self.read_bytes(self.layout.seat(index) + Seat.RELEASE, RELEASE_BYTES)
        return data.partition(b"\0")[0].decode(errors="ignore")

    def _zero(self, offset: int, words: int) -> None:
        self.bytes[offset * WORD : (offset + words) * WORD] = bytes(words * WORD)

    def clear_views(self, table: int) -> None:
        """Empty the table of memory by view at an offset."""
        self._zero(table, VIEWS_WORDS)

    def clear_seat(self, index: int) -> None:
        """Reset a seat before it is used: a worker that was killed while it wrote leaves an odd sequence."""
        start, text = self.layout.seat(index), self.seat_text(index)
        for word in range(start, start + Seat.WORDS):
            self.words[word] = 0
        self.words[text + 1] = 0
        started = self.layout.started(index)
        self._zero(started, ENTRIES)
        self._zero(self.layout.histograms(index), HISTOGRAMS_WORDS)
        # the sequence is never reset, so that no reader takes an old text for a new one
        self.words[text] = _next_sequence(self.words[text])


def _map_to_write(fd: int, size: int) -> mmap.mmap:
    """Map a file through a descriptor of its own.

    A mapping keeps a duplicate of its descriptor, which every child inherits. A duplicate of ``fd`` would hold the lock.
    """
    try:
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no /proc
        return mmap.mmap(fd, size)
    try:
        return mmap.mmap(again, size)
    finally:
        os.close(again)


def is_held(path: Path, *, others: bool = False) -> bool:
    """Return whether an arbiter holds the board at a path; True also if that cannot be found out.

    ``others``: see `Board.open`.
    The lock is made with `flock`: a lock of `lockf` would be lost if any reader in the arbiter's process closed the file.
    """
    try:
        fd = open_file(str(path), os.O_RDWR, others=others)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        return not _lock(fd)
    except OSError:
        return True
    finally:
        os.close(fd)


def remove_unheld(path: Path, *beside: Path) -> None:
    """Remove a file that no process holds, and what belongs to it. Its lock is held meanwhile: see `_make_locked`."""
    with contextlib.suppress(OSError):
        fd = open_file(str(path), os.O_RDWR)
        try:
            if _lock(fd) and _is_at(path, fd):
                for one in (path, *beside):
                    one.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _make_locked(path: Path) -> int:
    """Make a file whose lock is held until the arbiter ends, and return its descriptor. Raises OSError.

    Before it is locked, the start of another server may remove it, or hold its lock for a moment to find out whether it
    may: see `remove_unheld`.
    """
    for _ in range(MAKE_ATTEMPTS):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if _lock(fd) and _is_at(path, fd):
                return fd
            path.unlink(missing_ok=True)
        except OSError:
            path.unlink(missing_ok=True)
            os.close(fd)
            raise
        os.close(fd)
        time.sleep(MAKE_PAUSE)
    raise BlockingIOError(errno.EWOULDBLOCK, "another process removes it or holds its lock")


def _lock(fd: int) -> bool:
    """Take the lock of a file if no other process holds it; return whether this process holds it now. Raises OSError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, fd: int) -> bool:
    """Return whether a descriptor is of the file at a path."""
    try:
        there, ours = os.lstat(path), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _next_sequence(sequence: int) -> int:
    """Return the next even sequence; after the largest word, which a defective worker may have written, it is 0."""
    return ((sequence | 1) + 1) & MAX_WORD


def _check(fd: int, path: Path) -> Layout:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BoardError(f"{path} is not a scoreboard: not a regular file")
    head = os.pread(fd, Header.WORDS * WORD, 0)
    if len(head) < Header.WORDS * WORD:
        raise BoardError(f"{path} is truncated")
    words = memoryview(head).cast("Q")
    if words[Header.MAGIC] != MAGIC:
        raise BoardError(f"{path} is not a scoreboard")
    if words[Header.VERSION] != VERSION:
        raise BoardError(
            f"{path} is a scoreboard of version {words[Header.VERSION]}, but this program reads version {VERSION}; "
            "use the workerguard command from the server's environment"
        )
    if not (1 <= words[Header.SEATS] <= MAX_SEATS and 1 <= words[Header.SLOTS] <= MAX_SEATS):
        raise BoardError(
            f"{path} is not a scoreboard: its number of seats or slots is not valid (1 to {MAX_SEATS})"
        )
    layout = Layout(seats=words[Header.SEATS], slots=words[Header.SLOTS])
    if words[Header.SIZE] != layout.size or status.st_size != layout.size:
        raise BoardError(f"{path} is truncated")
    return layout
