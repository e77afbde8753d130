"""What a cgroup says, in trees as systemd and container engines make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from django_workerguard.probe import cgroup

MB = 1 << 20


@pytest.fixture
def tree(tmp_path):
    """A machine: make(path-in-the-hierarchy, files of each group) and where its roots are."""

    def make(inside: str, groups: dict[str, dict[str, str]]) -> dict[str, Path]:
        proc, root = tmp_path / "proc", tmp_path / "cgroup"
        proc.mkdir()
        (proc / "cgroup").write_text(f"0::{inside}\n")
        for group, files in groups.items():
            (root / group).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (root / group / name).write_text(text)
        return {"root": root, "proc": proc}

    return make


def test_a_quota_of_the_own_unit_and_of_the_slice_around_it(tree):
    roots = tree(
        "/web.slice/shop.service",
        {
            "web.slice": {"cpu.max": "50000 100000\n"},
            "web.slice/shop.service": {"cpu.max": "400000 100000\n"},
        },
    )
    assert cgroup.cpus(**roots) == 1


def test_in_a_container_the_root_is_its_own(tree):
    assert cgroup.cpus(**tree("/", {".": {"cpu.max": "100000 100000\n"}})) == 1


def test_without_a_quota_the_affinity_counts(tree):
    assert cgroup.cpus(**tree("/shop.service", {"shop.service": {"cpu.max": "max 100000\n"}})) == len(
        os.sched_getaffinity(0)
    )


def test_kills_for_want_of_memory(tree):
    roots = tree(
        "/shop", {"shop": {"memory.events": "low 0\nhigh 1\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"}}
    )
    assert cgroup.oom_kills(**roots) == 2


@pytest.fixture
def old_hierarchy(tree):
    """A machine with cgroups of version 1, this process in one below the root."""

    def make(groups: dict[str, dict[str, str]]) -> dict[str, Path]:
        roots = tree("/", groups)
        (roots["proc"] / "cgroup").write_text("5:memory:/web/shop\n3:cpu,cpuacct:/web/shop\n0::/\n")
        return roots

    return make


def test_a_quota_below_the_root_of_the_old_hierarchy(old_hierarchy):
    quota = {"cpu.cfs_quota_us": "100000\n", "cpu.cfs_period_us": "100000\n"}
    assert cgroup.cpus(**old_hierarchy({"cpu/web/shop": quota})) == 1


def test_kills_in_other_groups_of_the_old_hierarchy_do_not_count(old_hierarchy):
    def control(kills: int) -> dict[str, str]:
        return {"memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"}

    roots = old_hierarchy(
        {"memory": control(7), "memory/web/shop": control(2), "memory/web/shop/worker": control(1)}
    )
    (roots["proc"].parent / "vmstat").write_text("oom_kill 10\n")
    assert cgroup.oom_kills(**roots) == 3


def test_without_such_a_cgroup_the_machine_counts(tmp_path):
    (tmp_path / "self").mkdir()
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 4\n")
    assert cgroup.oom_kills(root=tmp_path / "none", proc=tmp_path / "self") == 4


def test_a_machine_without_cgroups(tmp_path):
    nowhere = {"root": tmp_path / "none", "proc": tmp_path / "none"}
    assert cgroup.oom_kills(**nowhere) == 0
    assert cgroup.cpus(**nowhere) >= 1
