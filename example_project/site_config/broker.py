"""The embedded broker: kombu's directory of messages, in which a message appears whole.

kombu's own makes a message's file first and writes it then. A worker that looks in between takes
an empty message and ends (celery/kombu#1551), and so it is with its tables of queues.
"""

import fcntl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        folder = Path(self.data_folder_out)
        name = f"{time.monotonic_ns() // 1_000_000}_{uuid.uuid4()}.{queue}.msg"
        half = (
            folder / f"{uuid.uuid4()}.half"
        )  # no queue's name in it: older versions of kombu look anywhere for that
        half.write_text(dumps(payload))
        half.rename(folder / name)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.control_folder / ".lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)  # not flock: a child forked meanwhile would hold that as well
            yield

    def get_table(self, exchange: str) -> Any:
        with self._alone():
            return super().get_table(exchange)

    def _queue_bind(self, *arguments: Any) -> None:
        with self._alone():
            super()._queue_bind(*arguments)


class Transport(filesystem.Transport):
    Channel = Channel


def install() -> None:
    """Have ``filesystem://`` mean this."""
    TRANSPORT_ALIASES["filesystem"] = f"{__name__}:Transport"
