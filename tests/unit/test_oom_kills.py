"""Which SIGKILLs were the kernel's, whenever its count is looked at."""

from __future__ import annotations

from django_workerguard.arbiter.oom_kills import KEPT, OOMKills


class Kernel:
    kills = 3

    def __call__(self) -> int:
        return self.kills


def test_a_victim_that_ends_after_the_count_was_seen_is_still_the_kernels():
    kernel = Kernel()
    kills = OOMKills(kernel)
    kernel.kills += 1
    kills.update(10.0)  # the tick between the kill and the end of the process
    kills.update(11.0)
    assert kills.claim(11.2)
    assert not kills.claim(11.2), "one kill for one process"


def test_a_kill_of_another_process_is_forgotten():
    kernel = Kernel()
    kills = OOMKills(kernel)
    kernel.kills += 2
    kills.update(10.0)
    assert not kills.claim(10.0 + KEPT + 0.1)


def test_a_counter_that_goes_back_counts_nothing():
    kernel = Kernel()
    kills = OOMKills(kernel)
    kernel.kills = 0
    assert not kills.claim(1.0)
