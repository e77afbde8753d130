"""The drill's own memory cgroup: where there can be none, the act is skipped with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from django_workerguard.drill.acts import Lengths, SkippedError, Stage, memory
from django_workerguard.drill.cgroup import V1, V2, MemoryGroup, NoCgroupError, make
from django_workerguard.drill.servers import Plain

MB = 1 << 20


def process(directory: Path, line: str) -> Path:
    directory.mkdir()
    (directory / "cgroup").write_text(line)
    return directory


def test_a_cgroup_without_the_memory_controller_is_removed_again(tmp_path):
    root = tmp_path / "root"
    (root / "user" / "shell").mkdir(parents=True)
    with pytest.raises(NoCgroupError, match="no memory cgroup can be made") as refused:
        make(root=root, proc=process(tmp_path / "proc", "0::/user/shell\n"))
    assert f"{root}/user/shell: it has no memory controller" in str(refused.value)
    assert f"{root}: it has no memory controller" in str(refused.value)
    assert [path.name for path in root.rglob("*")] == ["user", "shell"]


def test_v1_is_used_where_it_has_the_controller(tmp_path):
    root = tmp_path / "root"
    (root / "memory" / "docker").mkdir(parents=True)
    with pytest.raises(NoCgroupError) as refused:
        make(root=root, proc=process(tmp_path / "proc", "4:memory:/docker\n0::/\n"))
    assert f"{root}/memory/docker: it has no memory controller" in str(refused.value)
    assert f"{root}:" not in str(refused.value)


def test_where_no_directory_can_be_made_the_kernels_reason_is_shown(tmp_path):
    with pytest.raises(NoCgroupError, match="/proc: No such file or directory"):
        make(root=Path("/proc"), proc=process(tmp_path / "proc", "0::/\n"))


def test_without_a_cgroup_the_shortage_of_memory_is_skipped_with_the_reason(tmp_path):
    server = Plain("a server", (), {}, "/", tmp_path)
    with pytest.raises(SkippedError, match="no memory cgroup can be made: Permission denied"):
        memory(Stage(server, tmp_path, Lengths(), None, "no memory cgroup can be made: Permission denied"))


@pytest.mark.parametrize(
    ("limit_file", "usage", "names"),
    [
        (V1, "memory.usage_in_bytes", ("total_inactive_file", "total_active_file", "total_mapped_file")),
        (V2, "memory.current", ("inactive_file", "active_file", "file_mapped")),
    ],
)
def test_used_memory_is_what_the_kernel_cannot_drop(tmp_path, limit_file, usage, names):
    (tmp_path / usage).write_text(f"{100 * MB}\n")
    inactive, active, mapped = names
    (tmp_path / "memory.stat").write_text(
        f"anon 1\n{inactive} {10 * MB}\n{active} {30 * MB}\n{mapped} {5 * MB}\n"
    )
    assert MemoryGroup(tmp_path, limit_file).used() == 65 * MB


def test_a_limit_is_set_and_taken_back_in_the_kernels_words(tmp_path):
    for limit_file, without in ((V1, "-1"), (V2, "max")):
        group = MemoryGroup(tmp_path, limit_file)
        group.limit(5 * MB)
        assert (tmp_path / limit_file).read_text() == str(5 * MB)
        group.limit(None)
        assert (tmp_path / limit_file).read_text() == without
