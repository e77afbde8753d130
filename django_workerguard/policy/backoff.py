"""How long to wait before the next try. Pure."""

from __future__ import annotations

import zlib

GOLDEN = 0.6180339887498949
SLOW = 4  # a cause that does not pass by itself starts so many times later


def seed_of(*identity: object) -> float:
    """Return a fraction that differs between processes of another identity: host, pid, time of the start."""
    return zlib.crc32(" ".join(map(str, identity)).encode()) / (1 << 32)


def jitter(number: int, seed: float) -> float:
    """Return a fraction from 0 to below 1: the same for the same number and seed, and spread evenly over both.

    ``seed``, a fraction too, is a server's own, so that servers that were started alike do not act alike.
    """
    return (GOLDEN * number + seed) % 1.0


def back_off(
    strikes: int, *, slot: int, first: float, longest: float, transient: bool, seed: float = 0.0
) -> float:
    """Return the seconds to wait after so many strikes in a row; 0 for none.

    Exponential from ``first`` to ``longest``. Jittered between half and the whole by a
    fraction derived from slot, strike and the server's ``seed``: slots and servers that failed
    together do not come back together, and the same history gives the same waits.
    """
    if strikes <= 0:
        return 0.0
    start = first if transient else first * SLOW
    whole: float = min(longest, start * 2 ** min(strikes - 1, 60))
    return whole * (0.5 + 0.5 * jitter(slot * 31 + strikes, seed))


def load_timeout(base: float, timeouts: int) -> float:
    """Return the time that the next load gets after so many time-outs in a row: twice, at most four times."""
    return base * (1, 2, 4)[min(timeouts, 2)]
