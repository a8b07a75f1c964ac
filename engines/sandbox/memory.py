"""How much memory there is: the machine's, and that of the control group this program runs in (unit, container).

A group that has reached its limit has its processes killed however much the machine still has. Both versions of the
kernel's interface are read, and the groups above the own one, whose limits hold for it too.
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
    """A control group with a limit; ``left_bytes`` counts what the kernel can take back from cached files as left."""

    directory: Path
    limit_bytes: int
    left_bytes: int


def default_memory_bytes(root: Path = _ROOT) -> int:
    """What a child may take where nobody says: three quarters of the machine's memory, and 2 GiB on a small one.

    In a control group with a limit never more than three quarters of that: the rest is for who waits for the child.
    """
    usual = max(_MIN_MEMORY_BYTES, (total_bytes(root) or 0) * 3 // 4)
    return min([usual, *(group.limit_bytes * 3 // 4 for group in limited_groups(root))])


def memory_shortage(free_bytes: int, root: Path = _ROOT) -> str | None:
    """Say who has less than ``free_bytes`` left, the machine or a control group; None where nobody has.

    A small group need not keep so much: an eighth of its limit is enough.
    """
    free = available_bytes(root)
    if free is not None and free < free_bytes:
        return f"the system has {mib(free)} left, {mib(free_bytes)} must stay free"
    for group in limited_groups(root):
        least = min(free_bytes, group.limit_bytes // 8)
        if group.left_bytes < least:
            return (
                f"the control group {group.directory} has {mib(group.left_bytes)} left of {mib(group.limit_bytes)}, "
                f"{mib(least)} must stay free (its limit is MemoryMax= of a unit, --memory of a container)"
            )
    return None


def limited_groups(root: Path = _ROOT) -> list[MemoryGroup]:
    """The control group of this process and those above it, as far as they have a limit below the machine's memory."""
    total = total_bytes(root)
    found = (_group(directory, is_v2=is_v2) for directory, is_v2 in group_directories("memory", root))
    return [group for group in found if group is not None and (total is None or group.limit_bytes < total)]


def resident_bytes(pid: int) -> int:
    """Memory of a process that is really there; 0 once it has ended."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def available_bytes(root: Path = _ROOT) -> int | None:
    """Memory that the machine could still give out; None where it does not tell."""
    return _meminfo("MemAvailable", root)


def total_bytes(root: Path = _ROOT) -> int | None:
    """Memory of the machine; None where it does not tell."""
    return _meminfo("MemTotal", root)


def mib(count: int) -> str:
    """As it stands in messages."""
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
    cached = sum(_number_after(f"{prefix}{name}", stat) or 0 for name in ("active_file", "inactive_file"))
    return MemoryGroup(directory, limit, limit - max(0, used - cached))


def _number(path: Path) -> int | None:
    """A file's only number; None for ``max``, and where there is no such file."""
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
