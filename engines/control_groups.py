"""Where the limits of this process's control group stand: its own directory and those above it, of either version.

A limit of a group holds for all below it. Source: Linux, cgroups(7), /proc/pid/cgroup; cgroup-v2.rst, "Namespace".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def group_directories(controller: str, root: Path) -> Iterator[tuple[Path, bool]]:
    """Give each directory that may limit ``controller`` (``memory``, ``cpu``), and whether it is of version 2.

    ``root`` is where ``/proc`` and ``/sys`` are read. Directories need not exist.
    """
    for line in _groups(root):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        is_v2 = not controllers
        if not is_v2 and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" if is_v2 else root / "sys/fs/cgroup" / controller
        own = PurePosixPath(path.lstrip("/"))
        # A container may see the path that its host knows, which does not exist inside: there the mount is its group.
        inside = () if ".." in own.parts else (own, *own.parents)
        for place in dict.fromkeys([*inside, PurePosixPath()]):
            yield mount / place, is_v2


def _groups(root: Path) -> list[str]:
    try:
        return (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:  # hidden: what is mounted is all there is
        return ["0::/"]
