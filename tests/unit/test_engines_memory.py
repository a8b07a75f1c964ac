"""The memory that a child may use: of the machine, and of this program's control group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engines.sandbox.memory import available_bytes, default_memory_bytes, limited_groups, resident_bytes, total_bytes
from engines.sandbox.memory import memory_shortage as why

_MIB = 2**20
_GIB = 2**30
_V1_NO_LIMIT = "9223372036854771712"


def _machine(root: Path, *, groups: str, total_bytes: int = 8 * _GIB, free_bytes: int = 6 * _GIB) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total_bytes // 1024} kB\nMemAvailable: {free_bytes // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    return root


def _v2(root: Path, path: str, *, limit: object, used: int = 0, stat: str = "") -> None:
    directory = root / "sys/fs/cgroup" / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(stat)


def _v1(root: Path, path: str, *, limit: object, used: int = 0, stat: str = "") -> None:
    directory = root / "sys/fs/cgroup/memory" / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(stat)


def test_the_memory_of_the_machine_is_read(tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="", total_bytes=100 * _MIB, free_bytes=40 * _MIB)
    assert (total_bytes(root), available_bytes(root)) == (100 * _MIB, 40 * _MIB)
    assert why(50 * _MIB, root) == "the system has 40 MiB left, but 50 MiB must stay free"
    assert why(30 * _MIB, root) is None


def test_without_memory_figures_only_the_default_limit_holds(tmp_path: Path) -> None:
    assert (total_bytes(tmp_path), available_bytes(tmp_path), limited_groups(tmp_path)) == (None, None, [])
    assert why(_GIB, tmp_path) is None
    assert default_memory_bytes(tmp_path) == 2 * _GIB


def test_this_machine_can_be_read() -> None:
    assert default_memory_bytes() > 0
    assert resident_bytes(os.getpid()) > _MIB
    assert why(0) is None


@pytest.mark.parametrize("limit", ["max", 8 * _GIB, 9 * _GIB, "nonsense"])
def test_a_cgroup_v2_without_an_effective_limit_changes_nothing(limit: object, tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="0::/system.slice/agent.service\n")
    _v2(root, "system.slice/agent.service", limit=limit, used=7 * _GIB)
    assert limited_groups(root) == []
    assert default_memory_bytes(root) == 6 * _GIB


def test_a_cgroup_v1_without_a_limit_changes_nothing(tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="5:devices:/\n4:memory:/unit\n")
    _v1(root, "unit", limit=_V1_NO_LIMIT, used=_GIB)
    assert limited_groups(root) == []


@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_the_own_group_counts_without_file_cache(version: int, tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="0::/unit\n" if version == 2 else "4:cpu,memory:/unit\n0::/other\n")
    if version == 2:
        _v2(root, "unit", limit=_GIB, used=900 * _MIB, stat=f"inactive_file {300 * _MIB}\nactive_file {100 * _MIB}\n")
    else:
        stat = f"inactive_file 7\ntotal_inactive_file {300 * _MIB}\ntotal_active_file {100 * _MIB}\n"
        _v1(root, "unit", limit=_GIB, used=900 * _MIB, stat=stat)
    (group,) = limited_groups(root)
    assert (group.limit_bytes, group.left_bytes) == (_GIB, 524 * _MIB)
    assert default_memory_bytes(root) == 768 * _MIB
    assert why(192 * _MIB, root) is None


def test_a_nearly_full_group_is_reported_with_its_limit(tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="0::/unit\n")
    _v2(root, "unit", limit=_GIB, used=_GIB - 100 * _MIB)
    told = why(192 * _MIB, root)
    assert told is not None
    assert "sys/fs/cgroup/unit has 100 MiB left of 1024 MiB, but 128 MiB must stay free" in told
    assert "MemoryMax=" in told


def test_parent_groups_count_too(tmp_path: Path) -> None:
    root = _machine(tmp_path, groups="0::/a/b\n")
    _v2(root, "a/b", limit="max", used=1)
    _v2(root, "a", limit=4 * _GIB, used=_GIB)
    assert [group.limit_bytes for group in limited_groups(root)] == [4 * _GIB]
    assert default_memory_bytes(root) == 3 * _GIB


@pytest.mark.parametrize("groups", ["0::/docker/0123\n", "0::/../..\n", "4:memory:/docker/0123\n"])
def test_in_a_container_the_mount_is_the_group(groups: str, tmp_path: Path) -> None:
    root = _machine(tmp_path, groups=groups)
    (_v1 if "memory" in groups else _v2)(root, "", limit=2 * _GIB, used=_GIB)
    (group,) = limited_groups(root)
    assert group.left_bytes == _GIB
