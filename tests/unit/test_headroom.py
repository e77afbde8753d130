"""The memory that is left, in trees as systemd, container engines and old kernels make them."""

from __future__ import annotations

import pytest

from django_workerguard.probe.headroom import Headroom, HeadroomReader

MB = 1 << 20
NO_LIMIT_V1 = "9223372036854771712"
MACHINE = "MemTotal:    4096000 kB\nMemFree:  1024 kB\nMemAvailable:   2048000 kB\nSwapTotal: {0} kB\nSwapFree: {0} kB\n"


@pytest.fixture
def machine(tmp_path):
    """A machine: read(groups, v1=…, inside=…, swap=…, files=…) is the headroom of a process in a cgroup."""

    def read(groups, *, inside="/web/shop", v1=False, swap=0, meminfo=None, files=()) -> Headroom:
        own = tmp_path / "proc" / "self"
        own.mkdir(parents=True)
        (own / "cgroup").write_text(f"5:memory:{inside}\n0::/\n" if v1 else f"0::{inside}\n")
        (tmp_path / "proc" / "meminfo").write_text(MACHINE.format(swap) if meminfo is None else meminfo)
        for path, contents in {**groups, **dict(files)}.items():
            directory = tmp_path / "cgroup" / path
            directory.mkdir(parents=True, exist_ok=True)
            for name, text in contents.items():
                (directory / name).write_text(f"{text}\n")
        reader = HeadroomReader(root=tmp_path / "cgroup", proc=own)
        assert reader.read() == reader.read()
        return reader.read()

    return read


def v2(limit, used, *, stat="", **more):
    files = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    return files | {name.replace("_", "."): text for name, text in more.items()}


def v1(limit, used, *, both=(), stat="total_inactive_file 0"):
    names = ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes")
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": stat,
        **dict(zip(names, both, strict=False)),
    }


@pytest.mark.parametrize(
    ("neighbours", "level"), [(90, (10 * MB, 100 * MB, 90 * MB)), (10, (70 * MB, 80 * MB, 10 * MB))]
)
def test_the_level_with_the_least_memory_left_decides(machine, neighbours, level):
    said = machine({"web": v2(100 * MB, neighbours * MB), "web/shop": v2(80 * MB, 10 * MB)})
    assert said == Headroom(*level, limits=(80 * MB, 100 * MB)), "what others use changes no limit"


def test_the_machine_has_less_than_the_cgroup_allows(machine):
    said = machine({"web/shop": v2(8000 * MB, 10 * MB)})
    assert said == Headroom(2000 * MB, 8000 * MB, 10 * MB, limits=(8000 * MB,))


def test_without_a_limit_the_machine_decides(machine):
    assert machine({"web/shop": v2("max", 5)}) == Headroom(2000 * MB)


def test_without_a_cgroup_the_machine_decides(machine):
    assert machine({}) == Headroom(2000 * MB)


def test_nothing_is_known_without_proc(tmp_path):
    assert HeadroomReader(root=tmp_path / "none", proc=tmp_path / "none").read() == Headroom()


def test_memory_high_counts_because_the_kernel_slows_down_what_is_above_it(machine):
    said = machine({"web/shop": v2("max", 10 * MB, memory_high=30 * MB)})
    assert said == Headroom(20 * MB, limits=(30 * MB,))


def test_what_the_kernel_can_drop_is_free_but_not_the_code_that_runs(machine):
    stat = f"anon {10 * MB}\ninactive_file {40 * MB}\nactive_file {20 * MB}\nfile_mapped {5 * MB}\nslab_reclaimable {MB}"
    said = machine({"web/shop": v2(100 * MB, 95 * MB, stat=stat)})
    assert said == Headroom((5 + 40 + 15 + 1) * MB, 100 * MB, 55 * MB, limits=(100 * MB,))


def test_a_limit_below_what_is_used_leaves_nothing(machine):
    assert machine({"web/shop": v2(50 * MB, 60 * MB)}).free == 0


@pytest.mark.parametrize(
    ("most", "swapped", "left"),
    [("max", 0, 500), (100 * MB, 30 * MB, 70), (10 * MB, 30 * MB, 0), ("?", "?", 500)],
)
def test_swap_is_room_as_far_as_the_cgroup_may_use_it(machine, most, swapped, left):
    group = v2(100 * MB, 90 * MB) | {"memory.swap.max": most, "memory.swap.current": swapped}
    assert machine({"web/shop": group}, swap=500 * 1024).free == (10 + left) * MB


@pytest.mark.parametrize("text", ["", "?", "-5", "1e9", "\0", "max"])
def test_what_is_no_number_is_left_out(machine, text):
    group = {"memory.max": text, "memory.current": text, "memory.stat": f"inactive_file {text}\n{text}"}
    said = machine({"web/shop": group, "web": v2(100 * MB, 90 * MB, stat="inactive_file ?\nanon")})
    assert said.limit in (0, 100 * MB)
    assert said.free in (0, 10 * MB)


def test_a_machine_that_says_nothing(machine):
    assert machine({"web/shop": v2("max", 5)}, meminfo="MemAvailable: lots\n") == Headroom()


def test_every_level_of_the_old_hierarchy(machine):
    stat = f"cache {50 * MB}\ntotal_inactive_file {40 * MB}\ntotal_active_file {9 * MB}\ntotal_mapped_file {4 * MB}"
    groups = {
        "memory": v1(NO_LIMIT_V1, 900 * MB),
        "memory/web": v1(100 * MB, 95 * MB, stat=stat),
        "memory/web/shop": v1(500 * MB, 20 * MB),
    }
    limits = (500 * MB, 100 * MB)
    assert machine(groups, v1=True) == Headroom((5 + 40 + 5) * MB, 100 * MB, 55 * MB, limits=limits)


def test_the_old_hierarchy_in_a_container_that_has_the_path_of_the_host(machine):
    said = machine({"memory": v1(100 * MB, 95 * MB)}, v1=True, inside="/docker/abc")
    assert said == Headroom(5 * MB, 100 * MB, 95 * MB, limits=(100 * MB,))


@pytest.mark.parametrize(
    ("both", "free"), [((NO_LIMIT_V1, 95 * MB), 505), ((100 * MB, 95 * MB), 5), ((300 * MB, 95 * MB), 205)]
)
def test_the_limit_of_memory_with_swap_of_the_old_hierarchy(machine, both, free):
    said = machine({"memory/web/shop": v1(100 * MB, 95 * MB, both=both)}, v1=True, swap=500 * 1024)
    assert said.free == free * MB


def test_no_limit_of_the_old_hierarchy(machine):
    assert machine({"memory/web/shop": v1(NO_LIMIT_V1, 5)}, v1=True) == Headroom(2000 * MB)


@pytest.mark.parametrize(("said", "pressure"), [("12.50", 12.5), ("lots", None)])
def test_the_pressure_of_the_own_cgroup(machine, said, pressure):
    text = f"some avg10={said} avg60=1.00 avg300=0.10 total=9\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=1"
    assert machine({"web/shop": v2("max", 5, memory_pressure=text)}).pressure == pressure


def test_the_pressure_of_the_machine_where_the_cgroup_has_none(machine):
    text = "some avg10=7.00 avg60=1.00 avg300=0.10 total=9"
    assert machine({}, files={"../proc/pressure": {"memory": text}}).pressure == 7.0


def test_a_process_that_is_moved_is_followed(tmp_path):
    own, root = tmp_path / "self", tmp_path / "cgroup"
    own.mkdir()
    for name, limit in (("a", 50), ("b", 70)):
        (root / name).mkdir(parents=True)
        (root / name / "memory.max").write_text(str(limit * MB))
        (root / name / "memory.current").write_text(str(MB))
    reader = HeadroomReader(root=root, proc=own)
    for name, free in (("a", 49), ("b", 69)):
        (own / "cgroup").write_text(f"0::/{name}\n")
        assert reader.read().free == free * MB
