"""The reports and the advice of a drill."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_workerguard.cli import commands
from django_workerguard.cli import drill as command
from django_workerguard.drill.advice import Facts, advise
from django_workerguard.drill.configuration import Configuration, Value
from django_workerguard.drill.formats.junit import failed_junit, junit
from django_workerguard.drill.formats.page import page
from django_workerguard.drill.formats.table import table
from django_workerguard.drill.measure import Measures, Ready, Request, Window
from django_workerguard.drill.result import Report, Result, Run, as_document
from django_workerguard.drill.verdict import FAILED, NONE, OK, SKIPPED, Verdict
from django_workerguard.errors import ExitCode

MB = 1 << 20
MEASURES = Measures(
    requests=200,
    lost=3,
    in_hand=1,
    errors=("status 503 (2)",),
    least_ready=3,
    back_after=0.4,
    p50=0.01,
    p99=1.25,
)
RESULTS = (
    Result(
        act="calm",
        title="the load alone",
        verdict=Verdict(OK),
        window=Window(act="calm", begin=0, fault=0.5, end=4, back=0.5),
        measures=replace(MEASURES, lost=0, in_hand=0, errors=(), least_ready=4),
    ),
    Result(
        act="kill",
        title="a worker is killed",
        verdict=Verdict(FAILED, ("2 requests were lost: status 503 (2)",)),
        window=Window(act="kill", begin=5, fault=5.5, end=9, back=None, kills=(5.5,)),
        measures=replace(MEASURES, back_after=None),
    ),
    Result(act="memory", title="no memory", verdict=Verdict(SKIPPED, ("no cgroup <here>",))),
)
RUN = Run(
    server="workerguard",
    target=4,
    results=RESULTS,
    requests=(
        Request(path="/", sent=1, seconds=0.01, status=200),
        Request(path="/<b>", sent=5.4, seconds=0.2, status=0, error="closed without an answer"),
        Request(path="/", sent=6, seconds=0.2, status=503),
    ),
    ready=(Ready(-1, 4), Ready(5.5, 3), Ready(6.5, 4)),
    events=({"event": "load-failed", "at": 6.0, "type": "MemoryError"}, {"event": "spawned", "at": 6.1}),
)
REPORT = Report(
    settings="site.settings",
    paths=("/", "/a?b=<c>"),
    seconds=12.3,
    runs=(RUN,),
    changes=("pidfile: a private file (instead of /run/x, a file)",),
    notes=("a note",),
    advice=("an advice",),
)


def test_the_table_has_each_act_with_its_figures_and_reasons():
    text = table(REPORT)
    assert re.search(r"calm +0 of 200 +4 of 4 +- +1\.2 s +ok", text)
    assert re.search(r"kill +3 of 200 \(1 in hand\) +3 of 4 +never +1\.2 s +failed", text)
    assert "  kill: 2 requests were lost: status 503 (2)" in text
    assert re.search(r"memory +- +- +- +- +skipped", text)
    assert text.endswith("1 of 2 acts went as promised; failed: kill; not played: memory.")
    for part in ("Note: a note", "  pidfile: a private file (instead of /run/x", "  an advice"):
        assert part in text


def test_another_server_is_beside_it_without_verdicts():
    other = replace(
        RUN,
        server="gunicorn",
        results=tuple(
            replace(one, verdict=Verdict(NONE), notes=("the server has ended",)) for one in RESULTS[:2]
        ),
    )
    both = replace(REPORT, runs=(RUN, other))
    text = table(both)
    assert "gunicorn, 4 workers" in text
    assert "  calm: the server has ended" in text
    assert [one.act for one in both.failed] == ["kill"], "a failure of another server is none"
    assert junit(both) == junit(REPORT)


def test_the_document_is_json_and_has_every_act():
    document = json.loads(json.dumps(as_document(REPORT)))
    assert document["version"] == 1
    assert document["ok"] is False
    acts = document["runs"][0]["acts"]
    assert [act["verdict"] for act in acts] == ["ok", "failed", "skipped"]
    assert acts[1]["measures"]["lost"] == 3
    assert acts[2]["measures"] is None


def test_junit_has_a_case_for_each_act():
    root = ElementTree.fromstring(junit(REPORT))
    suite = root.find("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped", "errors")} == {
        "tests": "3",
        "failures": "1",
        "skipped": "1",
        "errors": "0",
    }
    calm, kill, memory = suite.findall("testcase")
    assert calm.find("failure") is None
    assert kill.find("failure").get("message") == "2 requests were lost: status 503 (2)"
    assert memory.find("skipped").get("message") == "no cgroup <here>"
    assert float(kill.get("time")) == 4


@given(st.text())
def test_every_text_gives_junit_and_a_page_that_can_be_read(text):
    bad = replace(RESULTS[1], verdict=Verdict(FAILED, (text,)), title=text)
    report = replace(
        REPORT, runs=(replace(RUN, results=(bad,)),), advice=(text,), notes=(text,), settings=text
    )
    ElementTree.fromstring(junit(report).encode())
    ElementTree.fromstring(failed_junit(text).encode())
    page(report).encode()


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in ("meta", "rect", "line", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)


def test_the_page_is_one_file_with_the_timeline_for_light_and_dark():
    text = page(REPORT)
    read = Page()
    read.feed(text)
    assert read.addresses == []
    assert "@import" not in text
    assert "url(" not in text
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert "prefers-color-scheme: dark" in text
    assert read.tags.count("svg") == 1
    assert text.count('class="band"') == 2
    assert text.count('class="lost"') == 1
    assert text.count('class="hand"') == 1
    assert text.count('class="event"') == 1
    assert "load failed MemoryError" in text
    assert "<b>" not in text
    assert "&lt;here&gt;" in text


def configuration(**values: str) -> Configuration:
    return Configuration({name.replace("_", "-"): Value(text, "a test") for name, text in values.items()})


FACTS = Facts(
    target=4, fits_mold=True, load_seconds=1.0, worker_bytes=60 * MB, memory_bytes=1000 * MB, paths=("/",)
)
USUAL = {"load": "lazy", "memory_margin": "16777216", "load_timeout": "20", "warmup_path": "/"}


@pytest.mark.parametrize(
    ("settings", "facts", "said"),
    [
        (
            {},
            {},
            "load=auto fits: workers can be forked from the loaded application. They would share its memory",
        ),
        ({"load": "auto"}, {}, "load=auto fits: workers are forked"),
        (
            {},
            {"fits_mold": False, "hazards": ("thread poller",)},
            "load=auto does not fit: no worker can be forked",
        ),
        ({"load": "auto"}, {"fits_mold": False}, "Each worker loads by itself."),
        ({}, {"fits_mold": None}, "load=auto: unknown"),
        ({}, {}, "load-timeout is 20 s. The longest load took 1.0 s, so it fits."),
        ({}, {"load_seconds": 10.0}, "too near on a busy machine; set 100 s"),
        ({"load_timeout": "600"}, {}, "costs its slot longer than needed; 10 s would do"),
        ({"load_timeout": "0"}, {}, "a load that hangs is never ended"),
        (
            {},
            {},
            "workers=4 fits into the memory: the arbiter, 4 workers and one more at a replacement need about 340 MB",
        ),
        ({}, {"mold_bytes": 100 * MB}, "the arbiter, two molds during a reload, 4 workers and one more"),
        ({}, {"mold_bytes": 100 * MB}, "need about 540 MB before they grow, and there are 1000 MB."),
        ({}, {"memory_bytes": 310 * MB}, "workers=4 is too many for the memory"),
        ({}, {"memory_bytes": 310 * MB}, "At most 2 fit, or set load=auto."),
        ({}, {"free_bytes": 200 * MB}, "Only 200 MB of the memory are free"),
        ({"memory_margin": "0"}, {}, "memory-margin is 0 (set in a test), so a load begins although"),
        ({}, {"target": 1}, "There is one worker"),
        ({}, {}, "warmup-path has every path of the drill."),
        ({"need_app": "server"}, {}, "need-app=server (set in a test): the server ends"),
        ({"warmup_path": ""}, {}, 'Set WORKERGUARD["WARMUP_PATH"] = ["/"].'),
        (
            {},
            {"paths": ("/", "/a")},
            "warmup-path lacks /a: a worker is ready before it has answered there once. Set",
        ),
        ({}, {"paths": ("/", "/a")}, 'Set WORKERGUARD["WARMUP_PATH"] = ["/", "/a"].'),
        (
            {"warmup_path": ""},
            {"first_seconds": 0.9, "median_seconds": 0.01},
            "The first answer of a path took up to 900 ms, the median 10 ms.",
        ),
    ],
)
def test_the_advice_is_for_this_site(settings, facts, said):
    lines = advise(configuration(**{**USUAL, **settings}), replace(FACTS, **facts))
    assert any(said in line for line in lines), lines


@given(
    st.integers(1, 500),
    st.one_of(st.none(), st.booleans()),
    st.one_of(st.none(), st.floats(0.001, 1000)),
    st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
    st.sampled_from(("0", "1", "60", "", "1e9")),
)
def test_whatever_is_known_there_is_advice(target, fits, load, sizes, timeout):
    worker, memory = sizes
    facts = replace(
        FACTS, target=target, fits_mold=fits, load_seconds=load, worker_bytes=worker, memory_bytes=memory
    )
    assert advise(configuration(**{**USUAL, "load_timeout": timeout}), facts)


@pytest.mark.parametrize("full", [True, False], ids=["full", "closed"])
@pytest.mark.parametrize("passed", [True, False], ids=["passed", "failed"])
def test_the_exit_code_is_that_of_the_drill_even_if_the_report_cannot_be_written(full, passed, monkeypatch):
    report = replace(REPORT, runs=(replace(RUN, results=RESULTS[:1]),)) if passed else REPORT
    monkeypatch.setattr(command, "drill", lambda wish, say: report)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        if full:
            with open("/dev/full", "w") as device:
                os.dup2(device.fileno(), writer)
        monkeypatch.setattr(sys, "stdout", output)
        code = commands.run(["drill"], "workerguard")
    if not passed:
        assert code == ExitCode.UNEXPECTED
    else:
        assert code == (ExitCode.CANNOT_WRITE if full else ExitCode.OK)


def test_a_drill_goes_on_if_its_progress_cannot_be_written(monkeypatch):
    def drilled(wish, say):
        say("reading the settings")
        return REPORT

    monkeypatch.setattr(command, "drill", drilled)
    with open("/dev/full", "w") as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        assert commands.run(["drill"], "workerguard") == ExitCode.UNEXPECTED
