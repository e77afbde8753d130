"""The environment as a process was started with it, and the project's directory by its name."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
from django.utils.functional import SimpleLazyObject

from django_workerguard.config import handover as crossing
from django_workerguard.config import memfd, settings_exchange
from django_workerguard.config.environment import as_started, change, difference
from django_workerguard.config.handover import Handover
from django_workerguard.config.project_path import through_link, working_directory
from django_workerguard.errors import ConfigurationError


def test_the_environment_of_the_start(tmp_path):
    kept = tmp_path / "environ"
    kept.write_bytes(b"A=1\0EMPTY=\0B=x=y\0")
    assert as_started(kept) == {"A": "1", "EMPTY": "", "B": "x=y"}


@pytest.mark.parametrize("content", [b"gunicorn: master [site]\0\0\0", b"\0\0\0", None])
def test_the_present_environment_if_the_kernel_s_copy_is_overwritten_or_not_to_be_had(tmp_path, content):
    kept = tmp_path / "environ"
    if content is not None:
        kept.write_bytes(content)
    assert as_started(kept) == dict(os.environ)


def test_a_difference_turns_one_into_the_other():
    before, after = {"SAME": "1", "CHANGED": "1", "GONE": "1"}, {"SAME": "1", "CHANGED": "2", "NEW": "1"}
    environ = dict(before)
    change(environ, difference(before, after))
    assert environ == after
    change(environ, difference(after, before))
    assert environ == before


def test_the_name_of_the_working_directory(tmp_path, monkeypatch):
    release, link = tmp_path / "releases" / "one", tmp_path / "served"
    release.mkdir(parents=True)
    link.symlink_to(release)
    monkeypatch.chdir(link)
    assert working_directory({"PWD": str(link)}) == str(link)
    assert working_directory({}) == str(link), "the only link that points to the release"
    assert working_directory({"PWD": "/"}) == str(link), "PWD is of another directory"
    (tmp_path / "other").symlink_to(release)
    assert working_directory({}) == str(release), "two links, and neither has a name that says what it is for"
    (tmp_path / "current").symlink_to(release)
    assert working_directory({}) == str(tmp_path / "current")
    assert working_directory({"PWD": str(link)}) == str(link)


def test_a_link_that_may_be_there_for_another_reason(tmp_path, monkeypatch):
    (tmp_path / "site").mkdir()
    (tmp_path / "old-name").symlink_to(tmp_path / "site")
    monkeypatch.chdir(tmp_path / "site")
    assert working_directory({}) == str(tmp_path / "site")


def test_import_paths_by_the_name_of_the_directory(tmp_path):
    release, link = tmp_path / "one", tmp_path / "current"
    release.mkdir()
    link.symlink_to(release)
    paths = [str(release), f"{release}/apps", f"{release}-other", "/usr/lib", "vendor", ""]
    assert through_link(paths, str(link)) == [
        str(link),
        f"{link}/apps",
        f"{release}-other",
        "/usr/lib",
        f"{link}/vendor",
        str(link),
    ]


def test_a_handover_crosses_to_another_release():
    fd = crossing.write(Handover(project="/srv/site", guard={"surge": "2"}))
    written = json.loads(memfd.read_all(fd))
    older = {name: value for name, value in written.items() if name in ("project", "sys_path")}
    newer = {**written, "version": 99, "invented": [1]}
    assert crossing.read(fd) == Handover(project="/srv/site", guard={"surge": "2"})
    memfd.write_all(fd, json.dumps(older).encode())
    assert crossing.read(fd) == Handover(project="/srv/site")
    memfd.write_all(fd, json.dumps(newer).encode())
    assert crossing.read(fd).project == "/srv/site"
    crossing.rewrite(fd, Handover())
    assert crossing.read(fd) == Handover(), "a shorter one leaves nothing of the longer one"
    os.close(fd)


def test_a_lazy_object_in_workerguard_is_refused_and_not_evaluated():
    def ask():
        raise RuntimeError("the vault is closed")

    with pytest.raises(ConfigurationError, match="is of type SimpleLazyObject"):
        crossing.write(Handover(setting={"HEALTH_TOKEN": SimpleLazyObject(ask)}))


@pytest.mark.parametrize("written", ["", "{", "[]", "3", '{"module": "x"}'])
def test_an_answer_that_is_none_is_silence(written):
    fd = settings_exchange.write_request(settings_exchange.Request(module="shop.settings"))
    assert settings_exchange.read_answer(fd) is settings_exchange.SILENT
    memfd.write_all(fd, written.encode())
    assert settings_exchange.read_answer(fd).silent
    os.close(fd)


def test_an_answer_with_nothing_in_it_is_an_answer():
    fd = settings_exchange.write_request(settings_exchange.Request(module="shop.settings"))
    memfd.write_all(fd, b"{}")
    assert settings_exchange.read_answer(fd) == settings_exchange.Answer()
    os.close(fd)


def test_an_answer_of_another_release_is_an_answer():
    fd = settings_exchange.write_request(settings_exchange.Request(module="shop.settings"))
    memfd.write_all(fd, b'{"setting": {"WORKERS": 2}, "invented": [1]}')
    assert settings_exchange.read_answer(fd) == settings_exchange.Answer(setting={"WORKERS": 2})
    os.close(fd)


def test_a_request_of_another_release_is_answered(tmp_path):
    (tmp_path / "shop_settings.py").write_text("SECRET_KEY = 'x'\nWORKERGUARD = {'WORKERS': 2}\n")
    path = (str(tmp_path), *sys.path)
    request = {"module": "shop_settings", "path": path, "invented": [1]}
    fd = settings_exchange.write_request(settings_exchange.Request(module="shop_settings"))
    memfd.write_all(fd, json.dumps(request).encode())
    subprocess.run(settings_exchange.command(fd, patience=60), pass_fds=[fd], check=False)
    assert settings_exchange.read_answer(fd) == settings_exchange.Answer(setting={"WORKERS": 2})
    os.close(fd)


@pytest.fixture
def no_memfd(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "memfd_create", refuse)


def test_a_file_without_a_name_in_place_of_memory(no_memfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fd = memfd.open_anonymous("workerguard-test")
    memfd.write_all(fd, b"content")
    assert memfd.read_all(fd) == b"content"
    assert not os.get_inheritable(fd)
    assert list(tmp_path.iterdir()) == []
    os.close(fd)


def test_neither_memory_nor_a_directory(no_memfd, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="memfd_create: Operation not permitted"):
        memfd.open_anonymous("workerguard-test")
    with pytest.raises(ConfigurationError, match="Allow memfd_create in the seccomp profile"):
        memfd.need_anonymous("workerguard-test")
