"""The private and the shared memory of a process, as the kernel counts it."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from django_workerguard.probe.memory import Memory, memory_of
from django_workerguard.probe.process import resident_bytes

MB = 1 << 20
SIZE = 32 * MB


def in_a_fork(block: bytearray, *, write: bool) -> Memory:
    """Return the memory of a fork that shares a block with this process, or has written to it."""
    ready, told = os.pipe()
    pid = os.fork()
    if not pid:
        if write:
            block[:: mmap.PAGESIZE] = b"x" * len(block[:: mmap.PAGESIZE])
        os.write(told, b".")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(ready, 1)
        found = memory_of(pid)
        assert abs(found.private + found.shared - resident_bytes(pid)) < 2 * MB
        return found
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)


def test_what_a_fork_has_written_to_is_private_and_the_rest_is_shared():
    block = bytearray(os.urandom(SIZE))
    reader, writer = in_a_fork(block, write=False), in_a_fork(block, write=True)
    assert reader.shared >= SIZE - MB
    assert writer.private - reader.private >= SIZE - MB


def test_a_process_that_cannot_be_read_has_none(tmp_path: Path):
    assert memory_of(1, proc=str(tmp_path)) == Memory()
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "smaps_rollup").write_text("Private_Dirty: many kB\n")
    assert memory_of(1, proc=str(tmp_path)) == Memory()
