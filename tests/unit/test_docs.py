"""The documentation names nothing that does not exist, and leaves out nothing that does."""

from __future__ import annotations

import argparse
import ast
import configparser
import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from gunicorn.config import KNOWN_SETTINGS

from django_workerguard.cli import commands
from django_workerguard.config.arguments import add_arguments
from django_workerguard.config.load_request import Step
from django_workerguard.config.options import OPTIONS
from django_workerguard.config.resolve import POOL, POOL_OPTIONS
from django_workerguard.errors import ExitCode
from django_workerguard.report import findings
from django_workerguard.report.remedies import REMEDIES
from django_workerguard.scoreboard.board import Board
from django_workerguard.scoreboard.header import Header
from django_workerguard.scoreboard.layout import Layout, Slot, SlotState
from django_workerguard.scoreboard.snapshot import snapshot
from docs.generate_reference import PAGES as GENERATED
from docs.generate_reference import REFERENCE
from tests.components import COMPONENTS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "django_workerguard"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]+")
# of python -m django_workerguard, of Django, of Celery, and of what else a page has the reader call
OTHERS_FLAGS = {
    *("--settings", "--pythonpath", "--skip-checks", "--noinput", "--deploy", "--production"),
    *("--concurrency", "--autoscale", "--destination", "--terminate"),
    *("--duration", "--comment", "--author", "--from-literal", "--previous"),
    *("--no-deps", "--wheel-dir", "--find-links"),
    *("--rm", "--restart", "--image", "--env", "--kill-whom", "--signal", "--now", "--system"),
}
# what Kubernetes injects for a service called workerguard
INJECTED = {"SERVICE_HOST"}


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def python_blocks(text: str) -> list[str]:
    return [fence["code"] for fence in FENCE.finditer(text) if fence["language"] == "python"]


def dedented(code: str) -> str:
    first = code[: len(code) - len(code.lstrip(" "))]
    return "".join(line.removeprefix(first) for line in code.splitlines(keepends=True))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the forges make them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def known_flags() -> set[str]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    workerguard = commands._parser("workerguard")
    parsers = [parser, workerguard, *_subparsers(workerguard)]
    ours = {flag for one in parsers for flag in one._option_string_actions}
    gunicorns = {flag for setting in KNOWN_SETTINGS for flag in setting.cli or ()}
    return ours | gunicorns | OTHERS_FLAGS


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def known_keys() -> set[str]:
    of_pools = {POOL, f"{POOL}_", *(f"{POOL}_{field.upper()}" for field in POOL_OPTIONS)}
    return {
        *(option.key for option in OPTIONS.values()),
        *(setting.name.upper() for setting in KNOWN_SETTINGS),
        *of_pools,
    }


@pytest.mark.parametrize("page", GENERATED)
def test_the_generated_reference_is_fresh(page):
    assert (REFERENCE / page).read_text() == GENERATED[page](), "stale: run python docs/generate_reference.py"


@each(PAGES)
def test_internal_links_resolve(page):
    for link in LINK.finditer(page.read_text()):
        target, _, anchor = link["target"].partition("#")
        if "://" in target:
            continue
        there = (page.parent / target).resolve() if target else page
        assert there.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_every_page_can_be_reached_from_the_index():
    linked = {
        (DOCS / link["target"].partition("#")[0]).resolve()
        for link in LINK.finditer((DOCS / "index.md").read_text())
    }
    assert set(DOCS.rglob("*.md")) - linked == {DOCS / "index.md"}


@each(PAGES)
def test_every_flag_exists(page):
    named = set(FLAG.findall(page.read_text()))
    assert named <= known_flags(), named - known_flags()


@each(PAGES)
def test_every_key_of_the_setting_exists(page):
    text = page.read_text()
    named = set(re.findall(r'WORKERGUARD\["(\w+)"\]', text))
    named |= set(re.findall(r"\bWORKERGUARD_(\w+)", text)) - INJECTED
    for block in python_blocks(text):
        named |= set(_setting_keys(ast.parse(dedented(block))))
    assert named <= known_keys(), named - known_keys()


def _setting_keys(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name("WORKERGUARD")], value=ast.Dict(keys=keys)):
                yield from (str(ast.literal_eval(key)) for key in keys if key is not None)


@each(PAGES)
def test_python_blocks_compile(page):
    for block in python_blocks(page.read_text()):
        compile(dedented(block), str(page), "exec")


def first_column(page: str) -> set[str]:
    """The names in backticks in the first cells of a page's tables."""
    cells = re.findall(r"^\| ([^|]+) \|", (DOCS / "reference" / page).read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([\w.-]+)`", cell)}


def source(*path: str) -> str:
    return PACKAGE.joinpath(*path).read_text()


@each(PAGES)
def test_what_python_blocks_import_is_there(page):
    wanted = [
        (node.module, alias.name)
        for block in python_blocks(page.read_text())
        for node in ast.walk(ast.parse(dedented(block)))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in IMPORTED
        for alias in node.names
    ]
    if wanted:
        assert missing_imports(wanted) == ""


IMPORTED = ("django", "django_workerguard", "prometheus_client", "health_check", "pytest")


def missing_imports(wanted: list[tuple[str, str]]) -> str:
    """Import in a process of its own, because models want settings, and return the errors."""
    code = (
        "import django; from django.conf import settings; settings.configure(INSTALLED_APPS=['django.contrib.auth', "
        "'django.contrib.contenttypes'], ROOT_URLCONF='x'); django.setup()"
    )
    for module, name in wanted:
        code += f"\ntry:\n    from {module} import {name}\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@each(PAGES)
def test_blocks_of_data_can_be_read(page):
    for fence in FENCE.finditer(page.read_text()):
        code = textwrap.dedent(fence["code"])
        match fence["language"]:
            case "json":
                json.loads(code)
            case "yaml":
                list(yaml.safe_load_all(code))
            case "ini":
                configparser.ConfigParser(strict=False, interpolation=None).read_string(code)


def test_every_alert_has_its_section_in_the_runbook():
    rules = yaml.safe_load((DOCS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    runbook = DOCS / "howto" / "alerting.md"
    for rule in rules:
        address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert address.endswith("/howto/alerting.html")
        assert anchor == rule["alert"].lower()
        assert anchor in anchors(runbook), rule["alert"]


def test_every_critical_finding_has_its_section_in_the_runbook():
    rows = re.findall(
        r"^\| `([\w-]+)` \| critical", (DOCS / "reference" / "status.md").read_text(), re.MULTILINE
    )
    assert rows
    assert set(rows) <= anchors(DOCS / "howto" / "alerting.md")


def test_it_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, tmp_path]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_the_messages_of_troubleshooting_are_messages_of_the_package():
    said = {text for path in PACKAGE.rglob("*.py") for text in _texts(ast.parse(path.read_text()))}
    terms = re.findall(
        r"^`(.+)`(?: \(settings\))?\n:", (DOCS / "howto" / "troubleshooting.md").read_text(), re.MULTILINE
    )
    assert len(terms) > 20
    unknown = [term for term in terms if not any(term.rstrip("…") in text for text in said)]
    assert unknown == []


def _texts(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, with … for each value that is filled in."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(str(text)):
                yield re.sub(r"%[.\d]*[a-z]", "…", text)
            case ast.JoinedStr(values=parts):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)


def test_every_event_is_described():
    sources = (source("arbiter", "event_log.py"), source("contrib", "uwsgi", "publisher.py"))
    written = set(re.findall(r'self\._(?:event|limited_event|about)\(\s*"([\w-]+)"', "".join(sources)))
    assert first_column("events.md") == written


def test_every_system_check_is_described():
    sources = (source("checks.py"), source("contrib", "uwsgi", "checks.py"))
    checks = set(re.findall(r'"(workerguard\.[EWI]\d+)"', "".join(sources)))
    assert first_column("system-checks.md") == checks


def test_every_exit_code_is_described():
    text = (DOCS / "reference" / "exit-codes.md").read_text()
    described = {
        (int(code), name) for code, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE)
    }
    assert described == {(code.value, code.name) for code in ExitCode}


def test_every_field_and_finding_of_status_is_described():
    board = Board.create(Layout(seats=1, slots=1), None)
    board.words[Header.TARGET] = 1
    board.words[board.layout.slot(0) + Slot.STATE] = SlotState.READY  # a mold
    shot = findings.with_findings(snapshot(board))
    board.close()
    arbiter = {f"arbiter.{key}" for key in shot["arbiter"]}
    fields = (
        set(shot) - {"arbiter"} | arbiter | set(shot["slots"][0]) | set(shot["mold"]) | {"replaces", "pools"}
    )
    steps = {field.name for field in dataclasses.fields(Step)}
    codes = set(_finding_codes())
    leaving = {"draining", "stopping"}
    assert first_column("status.md") == fields | steps | codes | leaving
    assert set(REMEDIES) == codes


def _finding_codes() -> Iterator[str]:
    for node in ast.walk(ast.parse(source("report", "findings.py"))):
        match node:
            case ast.Call(func=ast.Name("Finding"), args=[_, ast.Constant(str(code)), *_]):
                yield code


@pytest.mark.needs("nginx", "openssl")
def test_nginx_has_nothing_against_the_blocks(tmp_path):
    """As they stand, but for what they name of a machine."""
    subprocess.run(
        [*CERTIFICATE, "-keyout", tmp_path / "key", "-out", tmp_path / "pem"], check=True, capture_output=True
    )
    for name in ("proxy_params", "uwsgi_params"):
        (tmp_path / name).write_text("")
    blocks = [
        fence["code"]
        for fence in FENCE.finditer((DOCS / "howto" / "nginx.md").read_text())
        if fence["language"] == "nginx"
    ]
    assert len(blocks) >= 3
    here = {
        "/etc/nginx/": f"{tmp_path}/",
        "/etc/ssl/site.pem": f"{tmp_path}/pem",
        "/etc/ssl/site.key": f"{tmp_path}/key",
    }
    for block in (re.sub("|".join(here), lambda found: here[found[0]], block) for block in blocks):
        conf = tmp_path / "nginx.conf"
        conf.write_text(
            f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} http {{ access_log off; {block} }}"
        )
        told = subprocess.run([COMPONENTS["nginx"].path(), "-t", "-c", conf], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr


CERTIFICATE = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site")
