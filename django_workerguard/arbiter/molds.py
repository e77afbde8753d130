"""The arbiter's side of the molds: the channels to them, and the workers that they fork. Runs in the arbiter.

It never waits for a mold: what a mold was asked for is answered later, or ends with the mold.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from django_workerguard.arbiter.children import CannotStartError, Child, Children
from django_workerguard.arbiter.control_socket import ring_on
from django_workerguard.arbiter.tracker import Tracker
from django_workerguard.worker.mold_channel import Answer, open_pair, read_answer, send


class Channels:
    """The channel to each mold, by the mold's seat."""

    def __init__(self) -> None:
        self._ends: dict[int, socket.socket] = {}

    def open(self, seat: int) -> socket.socket:
        """Open the channel to a mold that is about to be started, and return the mold's end. Raises OSError."""
        ours, its = open_pair()
        ring_on(ours.fileno())
        self._ends[seat] = ours
        return its

    def send(self, seat: int, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send a message to a mold, without waiting. Raises OSError; KeyError if there is no such mold."""
        send(self._ends[seat], message, descriptors)

    def receive(self) -> Iterator[tuple[int, Answer]]:
        """Yield what the molds have answered, each with the seat of the mold."""
        for seat, end in list(self._ends.items()):
            while (answer := read_answer(end)) is not None:
                yield seat, answer

    def close(self, seat: int) -> None:
        """Close the channel to a mold that has ended; do nothing if there is none."""
        with contextlib.suppress(KeyError):
            self._ends.pop(seat).close()

    def descriptors(self) -> Iterator[int]:
        """Yield the arbiter's ends, which no child gets."""
        for end in self._ends.values():
            yield end.fileno()


class Molds:
    """Takes in the workers that the molds fork."""

    def __init__(self, tracker: Tracker, children: Children, channels: Channels) -> None:
        self._tracker = tracker
        self._children = children
        self._channels = channels

    def receive(self, now: float) -> None:
        """Take in what the molds have answered, and give up what a mold was asked for that the kernel does not end."""
        for mold, answer in self._channels.receive():
            start = next((one for one in self._children.asked_of(mold) if one.seat == answer.seat), None)
            if start is None:
                continue  # it was given up
            refused, excused = answer.refused, answer.excused
            if not refused:
                try:
                    self._children.arrived(start.seat, answer.pid)
                except CannotStartError as error:
                    refused = str(error)
                else:
                    self._tracker.forked(start.seat, mold, now)
                    continue
            self._children.did_not_arrive(start.seat)
            memory = answer.memory
            self._tracker.not_spawned(
                start.slot, refused, now, seat=start.seat, excused=excused, memory=memory
            )
        molds = self._tracker.fleet.molds
        for seat in self._children.asked_molds():
            if seat not in molds:
                self._give_up(seat, "the mold is gone", now)
            elif molds[seat].not_ended:
                self._give_up(seat, "the mold was killed, and the kernel does not end it", now)

    def gone(self, mold: Child, now: float) -> None:
        """Give up what a mold that has ended was asked for, and close its channel."""
        self.receive(now)
        self._give_up(mold.seat, "the mold has ended", now)
        self._channels.close(mold.seat)

    def _give_up(self, mold: int, why: str, now: float) -> None:
        for start in self._children.asked_of(mold):
            self._children.did_not_arrive(start.seat)
            self._tracker.not_spawned(start.slot, why, now, seat=start.seat, excused=True)
