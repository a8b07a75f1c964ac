"""How much memory there is: of the machine, and of this process's control groups (unit, container).

When a group reaches its limit the kernel kills its processes, however much the machine has left. Both cgroup versions
are read, and all parent groups, since their limits apply too.
Source: Linux, cgroup-v2.rst, memory.max, memory.current and memory.stat; cgroup-v1/memory.rst, sections 3 and 5.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engines.host import group_directories

_ROOT = Path("/")
_MIN_MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group with a limit; ``left_bytes`` includes file cache, which the kernel can reclaim."""

    directory: Path
    limit_bytes: int
    left_bytes: int


def default_memory_bytes(root: Path = _ROOT) -> int:
    """Return a child's default memory limit: three quarters of the machine's memory, and at least 2 GiB.

    In a control group never more than three quarters of its limit: the rest is for the parent.
    """
    usual = max(_MIN_MEMORY_BYTES, (total_bytes(root) or 0) * 3 // 4)
    return min([usual, *(group.limit_bytes * 3 // 4 for group in limited_groups(root))])


def memory_shortage(free_bytes: int, root: Path = _ROOT) -> str | None:
    """Say what has less than ``free_bytes`` left, the machine or a control group; None if nothing has.

    A small group must only keep an eighth of its limit.
    """
    free = available_bytes(root)
    if free is not None and free < free_bytes:
        return f"the system has {mib(free)} left, but {mib(free_bytes)} must stay free"
    for group in limited_groups(root):
        required = min(free_bytes, group.limit_bytes // 8)
        if group.left_bytes < required:
            return (
                f"the control group {group.directory} has {mib(group.left_bytes)} left of {mib(group.limit_bytes)}, "
                f"but {mib(required)} must stay free (its limit is MemoryMax= of a unit, --memory of a container)"
            )
    return None


def limited_groups(root: Path = _ROOT) -> list[MemoryGroup]:
    """Return this process's control group and its parents, those with a limit below the machine's memory."""
    total = total_bytes(root)
    found = (_group(directory, is_v2=is_v2) for directory, is_v2 in group_directories("memory", root))
    # Without a limit, cgroup v1 states almost 2**63 bytes.
    return [group for group in found if group is not None and (total is None or group.limit_bytes < total)]


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def available_bytes(root: Path = _ROOT) -> int | None:
    """Return the machine's available memory; None if it is unknown."""
    return _meminfo("MemAvailable", root)


def total_bytes(root: Path = _ROOT) -> int | None:
    """Return the machine's memory; None if it is unknown."""
    return _meminfo("MemTotal", root)


def mib(count: int) -> str:
    """Format for messages."""
    return f"{count // 2**20} MiB"


def _meminfo(name: str, root: Path) -> int | None:
    kib = _number_after(f"{name}:", root / "proc/meminfo")
    return None if kib is None else kib * 1024


def _group(directory: Path, *, is_v2: bool) -> MemoryGroup | None:
    limit = _number(directory / ("memory.max" if is_v2 else "memory.limit_in_bytes"))
    used = _number(directory / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
    if limit is None or used is None:
        return None
    stat = directory / "memory.stat"
    prefix = "" if is_v2 else "total_"
    # Usage includes file cache, which the kernel reclaims before it kills. Not counted as cache are shared memory and
    # tmpfs: without swap they stay.
    cached = sum(_number_after(f"{prefix}{name}", stat) or 0 for name in ("active_file", "inactive_file"))
    return MemoryGroup(directory, limit, limit - max(0, used - cached))


def _number(path: Path) -> int | None:
    """Return the number in a file; None for ``max``, or if there is no such file."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _number_after(name: str, path: Path) -> int | None:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == name:
                return int(words[1])
    except (OSError, ValueError):
        return None
    return None
