"""What the writer and the readers of a stack dump agree on. Imports nothing heavy, because the arbiter needs it too."""

from __future__ import annotations

import signal

# Real-time signals that hardly any program uses; their default action would end the process. Python answers the first, as
# soon as the main thread runs Python. Code in C answers the second at once, and must not read the stack of a thread that
# runs Python meanwhile: it is for a worker that has not answered the first.
STACKS_SIGNAL = signal.SIGRTMAX - 5
FORCED_STACKS_SIGNAL = signal.SIGRTMAX - 6
FORCE_AFTER = 1.5  # seconds between the two
END = "-- all stacks are written"
