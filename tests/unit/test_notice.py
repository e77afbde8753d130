"""What is notified, when: each finding once when it appears and once when it clears, flapping never."""

from __future__ import annotations

import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.config.handover import Handover
from django_workerguard.config.options import GuardOptions
from django_workerguard.config.resolve import SETTING, Layer, resolve
from django_workerguard.errors import ConfigurationError
from django_workerguard.notify import runner
from django_workerguard.notify.notice import SETTLED, Notices, message, subject
from django_workerguard.notify.runner import Notifier
from django_workerguard.policy.reason import Reason, Rule
from django_workerguard.report.findings import Finding
from tests.shots import ERROR, changed

CODES = ("load-failing", "outlier", "frozen")


def finding(code, slot=None, severity="warning"):
    return Finding(severity, code, slot, f"{code} in {slot}")


@given(st.lists(st.tuples(st.floats(0.1, 20.0), st.sets(st.sampled_from(CODES))), max_size=30))
def test_appearing_and_clearing_alternate_and_what_flaps_is_never_told(steps):
    notices, now, told, since = Notices({}, {}), 0.0, set(), dict.fromkeys(CODES, 0.0)
    before: set[str] = set()
    for passed, codes in steps:
        now += passed
        since |= dict.fromkeys(codes ^ before, now)
        before = codes
        findings = [finding(code) for code in codes]
        notices = notices.update(findings, now)
        if not notices.due(findings, now):
            assert all(now - since[code] < SETTLED for code in codes ^ told)
            continue
        assert any(now - since[code] >= SETTLED for code in codes ^ told)
        notices, notice = notices.report(findings)
        assert {one["code"] for one in notice["appeared"]} == codes - told
        assert {one["code"] for one in notice["cleared"]} == told - codes
        told = set(codes)
    assert {key[0] for key in notices.reported} == told


def test_a_critical_finding_is_told_at_once_and_a_mere_notice_never():
    critical, notice = finding("stand-in", severity="critical"), finding("mixed-releases", severity="notice")
    assert Notices({}, {}).update([critical], 0.0).due([critical], 0.0)
    assert not Notices({}, {}).update([notice], 0.0).due([notice], 1000.0)


def test_a_notice_in_words():
    server = {"name": "shop", "host": "a1", "ready": 1, "target": 2}
    one = {"severity": "warning", "code": "frozen", "slot": None, "text": "frozen:\nit cannot be loaded"}
    notice = {"server": server, "appeared": [one, one], "cleared": [], "standing": [one, one]}
    assert subject(notice) == "[shop on a1] warning: frozen: it cannot be loaded (and 1 more)"
    assert "1 of 2 workers are ready" in message(notice)
    failing, debug = {**one, "remedy": "Remove the cause."}, {**one, "text": "DEBUG", "remedy": "Change it."}
    text = message({**notice, "standing": [failing, failing, debug]})
    line = f"- warning: {one['text']}\n"
    assert (
        f"\n{line}{line}  What to do: Remove the cause.\n- warning: DEBUG\n  What to do: Change it.\n" in text
    )
    assert subject({**notice, "appeared": [], "cleared": [one]}).startswith("[shop on a1] cleared: ")


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("webhook:https://example.org/x", ("webhook:https://example.org/x",)),
        ("command:/bin/page --to 'on call, now'", ("command:/bin/page --to 'on call, now'",)),
        (["email:a@example.org", "command:true"], ("email:a@example.org", "command:true")),
        ("", ()),
    ],
)
def test_receivers(given, parsed):
    assert resolve([Layer(SETTING, {"notify": given})]).options.notify == parsed


@pytest.mark.parametrize(
    "given",
    [
        "slack:x",
        "webhook:",
        "command:true,webhook:https://example.org/x",
        "webhook:file:///etc/passwd",
        "command:echo 'x",
        5,
        "https://example.org",
    ],
)
def test_receivers_that_cannot_be(given):
    with pytest.raises(ConfigurationError) as told:
        resolve([Layer(SETTING, {"notify": given})])
    assert "passwd" not in str(told.value), "a secret is never printed"


class Log:
    def __init__(self):
        self.said = []

    def error(self, text, *values, extra):
        self.said.append(text % values)


@pytest.fixture
def notifier(tmp_path):
    notifier = Notifier()
    log = Log()
    notifier.configure(
        GuardOptions(notify=(f"command:sh -c 'cat > {tmp_path}/told'",), notify_interval=60.0),
        Handover(),
        log,
    )
    notifier.log = log
    return notifier


FAILING = changed(
    slot={"state": "back_off", "failures": 2, "next_try_in": 3.0, "last_error": ERROR, "pid": None}
)


def ended(notifier):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return notifier.ended(pid, status)
        time.sleep(0.01)
    raise AssertionError("no process has ended")


def ticks(notifier, shot, until, *, at=0.0):
    while at < until and not notifier._running:
        notifier.tick(lambda: shot, at)
        at += 1.0
    return at


def test_the_process_gets_the_notice_and_the_next_has_to_wait(notifier, tmp_path):
    at = ticks(notifier, FAILING, 60.0)
    assert at >= SETTLED
    assert ended(notifier)
    assert "load-failing" in (tmp_path / "told").read_text()
    assert notifier.log.said == []
    (tmp_path / "told").unlink()
    ticks(notifier, changed(), 59.0, at=at)
    assert not notifier._running, "not within the interval"
    ticks(notifier, changed(), 80.0, at=59.0)
    assert ended(notifier)
    assert '"cleared": [{' in (tmp_path / "told").read_text()


def test_a_process_that_takes_too_long_is_ended_with_its_children(notifier, monkeypatch):
    monkeypatch.setattr(runner, "LONGEST_RUN", 3.0)
    notifier._targets = ("command:sh -c 'sleep 100 & sleep 100'",)
    at = ticks(notifier, FAILING, 60.0)
    (pid,) = notifier._running
    notifier.tick(lambda: FAILING, at + 10.0)
    assert ended(notifier)
    assert "killed by SIGKILL" in notifier.log.said[0]
    assert group_is_gone(pid)


def group_is_gone(pid):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, signal.SIGCONT)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(
    ("command", "said"), [("/no/such/program", "cannot be run"), ("false", "exit code 1")]
)
def test_a_program_that_fails_is_told_in_the_log_and_harms_nobody(notifier, command, said):
    notifier._targets = (f"command:{command}", f"command:{command}")
    at = ticks(notifier, FAILING, 20.0)
    while len(notifier.log.said) < 2:
        if notifier._running:
            ended(notifier)
        at += 1
        notifier.tick(lambda: FAILING, at)
    assert all(said in line for line in notifier.log.said)


def test_a_start_is_no_news():
    starting = changed(ready=0, quorum_reached=False, slot={"state": "loading"})
    notifier = Notifier()
    notifier.configure(GuardOptions(notify=("command:true",)), Handover(), Log())
    assert ticks(notifier, starting, 40.0) >= 40.0


@pytest.mark.parametrize("phase", ["draining", "stopping"])
def test_a_stop_is_no_news(phase):
    leaving = changed(ready=0, arbiter={"phase": phase})
    notifier = Notifier()
    notifier.configure(GuardOptions(notify=("command:true",)), Handover(), Log())
    assert ticks(notifier, leaving, 40.0) >= 40.0


def test_giving_up_is_told_also_late_in_the_servers_life(notifier, tmp_path):
    notifier._targets = (f"command:sh -c 'sleep 0.5; cat > {tmp_path}/told'",)
    at = 1000.0
    notifier.give_up(FAILING, Reason(Rule.GIVE_UP_AFTER), at)
    notifier.tick(lambda: FAILING, at)  # the rest of the tick in which the server gives up
    notifier.finish(10.0)
    assert notifier.log.said == []
    assert '"code": "gave-up"' in (tmp_path / "told").read_text()
