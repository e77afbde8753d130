"""Which SIGKILLs were the kernel's, whenever its count is looked at."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from django_workerguard.arbiter.oom_kills import KEPT, OOMKills
from django_workerguard.probe.cgroup import oom_kills
from django_workerguard.probe.process import is_dying


class Kernel:
    kills: int | None = 3

    def __call__(self) -> int | None:
        return self.kills


def test_a_victim_that_ends_after_the_count_was_seen_is_still_the_kernels():
    kernel = Kernel()
    kills = OOMKills(kernel, is_dying=lambda: False)
    kernel.kills += 1
    kills.update(10.0)  # the tick between the kill and the end of the process
    kills.update(11.0)
    assert kills.claim(11.2)
    assert not kills.claim(11.2), "one kill for one process"


def test_a_kill_of_another_process_is_forgotten():
    kernel = Kernel()
    kills = OOMKills(kernel, is_dying=lambda: False)
    kernel.kills += 2
    kills.update(10.0)
    assert not kills.claim(10.0 + KEPT + 0.1)


def test_a_victim_that_takes_long_to_end_is_still_the_kernels():
    kernel, dying = Kernel(), [True]
    kills = OOMKills(kernel, is_dying=lambda: dying[0])
    kernel.kills += 1
    kills.update(10.0)
    kills.update(40.0)
    assert kills.claim(70.0)
    kernel.kills += 1
    kills.update(80.0)
    dying[0] = False
    assert not kills.claim(80.0 + KEPT + 0.1), "of another process: none of ours was ending"


def test_a_process_is_dying_from_the_signal_until_it_is_collected():
    assert not is_dying(os.getpid())
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    assert not is_dying(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert is_dying(pid)
    os.waitpid(pid, 0)
    assert is_dying(pid), "it has ended"


@pytest.mark.parametrize(
    ("flags", "pending", "dying"),
    [("4194304", "0000000000000000", False), ("4194308", "0" * 16, True), ("64", "0000000000000100", True)],
)
def test_the_kernel_says_that_a_process_is_ending(tmp_path, flags, pending, dying):
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "stat").write_text(f"7 (a) b) D 1 7 7 0 -1 {flags} 1 2 3 4\n")
    (tmp_path / "7" / "status").write_text(f"Name:\ta\nSigQ:\t0/9\nSigPnd:\t{pending}\nShdPnd:\t{'0' * 16}\n")
    assert is_dying(7, proc=str(tmp_path)) is dying


def test_a_counter_that_goes_back_counts_nothing():
    kernel = Kernel()
    kills = OOMKills(kernel, is_dying=lambda: False)
    kernel.kills = 0
    assert not kills.claim(1.0)


def test_a_count_that_cannot_be_read_changes_nothing():
    kernel = Kernel()
    kernel.kills = None
    kills = OOMKills(kernel, is_dying=lambda: False)
    kernel.kills = 3
    assert not kills.claim(1.0), "they were counted before the server looked for the first time"
    kernel.kills = None
    assert not kills.claim(2.0)
    kernel.kills = 3
    assert not kills.claim(3.0)
    kernel.kills = 4
    assert kills.claim(4.0)


def test_without_a_free_descriptor_the_count_is_not_known():
    limits, read = resource.getrlimit(resource.RLIMIT_NOFILE), oom_kills()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert oom_kills() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert oom_kills() == read is not None
