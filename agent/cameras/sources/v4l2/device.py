"""Checks a camera's device file before a library opens it: present, a camera, accessible, held by which process."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.cameras.sources.lifecycle import Lifecycle

PROC = Path("/proc")
_VIDEO_MAJOR = 81

IsVideo = Callable[[os.stat_result], bool]


def is_video_device(status: os.stat_result) -> bool:
    """Whether this is a V4L2 device file. Source: Linux, admin-guide/devices.txt."""
    return stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) == _VIDEO_MAJOR


def check_device(path: Path, lifecycle: Lifecycle, *, is_video: IsVideo = is_video_device) -> Path:
    """The device file, links resolved.

    Raises:
        SourceUnavailable: missing, not a video device, or no permission.
    """
    try:
        device = path.resolve(strict=True)
        status = device.stat()
    except (OSError, RuntimeError) as exc:
        # RuntimeError, before Python 3.13: a symlink loop.
        why = exc.strerror if isinstance(exc, OSError) else exc
        present = ", ".join(sorted(str(found) for found in Path("/dev").glob("video*"))) or "none"
        raise lifecycle.unavailable(
            "missing",
            f"{path} cannot be found ({why}); video devices present: {present}. Plug in the camera or "
            "correct `device`",
        ) from exc
    if not is_video(status):
        raise lifecycle.unavailable(
            "not_a_camera",
            f"{path} is not a video device. Set `device` to one, such as /dev/video0 or a link below /dev/v4l/by-id",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        user, group = _user_name(os.geteuid()), _group_name(status.st_gid)
        raise lifecycle.unavailable(
            "permission",
            f"{path} belongs to the group {group} (mode {stat.S_IMODE(status.st_mode):o}) and is not accessible to "
            f"user {user}. Run: sudo usermod -aG {group} {user}; then restart the agent (log out and in first if you "
            "run it by hand)",
        )
    return device


def holders(device: Path, *, proc: Path = PROC) -> Iterator[str]:
    """Names of other processes that have the device open; only root sees those of all users."""
    for process in sorted(proc.glob("[0-9]*"), key=lambda folder: int(folder.name)):
        if process.name == str(os.getpid()):
            continue
        try:
            is_holder = any(link.readlink() == device for link in (process / "fd").iterdir())
            name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:  # ended meanwhile, or a process of another user
            continue
        if is_holder:
            yield f"{name} (process {process.name})"


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
