"""What the writer and the readers of a stack dump agree on. Imports nothing heavy, because the arbiter needs it too."""

from __future__ import annotations

import signal

# a real-time signal that hardly anybody uses; its default action would end the process
STACKS_SIGNAL = signal.SIGRTMAX - 5
END = "-- all stacks are written"
