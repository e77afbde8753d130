"""Jobs that a child had read and not accepted when it was killed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.contrib.celery.sent_jobs import PATIENCE, SentJobs


def make(*jobs: int, at: float = 0.0) -> SentJobs:
    sent = SentJobs()
    for job in jobs:
        sent.sent(job, f"message {job}", at)
    return sent


def look(
    sent: SentJobs, now: float, *, accepted: set[int] = frozenset(), empty: bool = True, died: float = 1.0
):
    return sent.lost(accepted.__contains__, lambda: empty, died=died, now=now)


def test_a_job_that_was_read_and_not_accepted_is_lost_after_a_while():
    sent = make(1, 2)
    assert look(sent, 1.0, accepted={1}) == []
    assert look(sent, 1.0 + PATIENCE) == ["message 2"]
    assert look(sent, 100.0) == []


def test_a_job_that_may_still_be_in_the_queue_is_not_lost():
    sent = make(1)
    assert look(sent, 1.0, empty=False) == []
    assert look(sent, 100.0, empty=False) == []


def test_a_later_job_that_was_accepted_shows_that_the_earlier_one_was_read():
    """The queue of a busy pool is hardly ever empty."""
    sent = make(1, 2, 3)
    assert look(sent, 1.0, accepted={2}, empty=False) == []
    assert look(sent, 1.0 + PATIENCE, empty=False) == ["message 1"]


def test_without_a_death_a_child_is_only_slow():
    sent = make(1, at=5.0)
    assert look(sent, 6.0, died=4.0) == []
    assert look(sent, 100.0, died=4.0) == []


def test_a_job_that_was_sent_again_needs_another_death():
    sent = make(1)
    look(sent, 1.0)
    assert look(sent, 4.0) == ["message 1"]
    sent.sent(1, "message 1", 4.0)
    assert look(sent, 5.0) == []
    assert look(sent, 50.0) == []
    assert look(sent, 51.0, died=50.0) == ["message 1"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["send", "accept", "look", "look-later"]), st.integers(0, 5), st.booleans()
        ),
        max_size=40,
    )
)
def test_no_accepted_job_is_ever_sent_again(steps):
    sent, accepted, now = SentJobs(), set(), 0.0
    for what, job, empty in steps:
        now += PATIENCE if what == "look-later" else 0.1
        if what == "send" and job not in sent.jobs and job not in accepted:
            sent.sent(job, job, now)
        elif what == "accept":
            accepted.add(job)
        else:
            lost = look(sent, now, accepted=accepted, empty=empty, died=now)
            assert not accepted.intersection(lost)
            assert not accepted.intersection(sent.jobs)
