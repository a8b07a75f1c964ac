"""Reads files that only this user or root can have written: native code, and records that protect from it.

Each file is opened once, without following links, and checked through the open descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

UNFINISHED = ".new-"
"""Names that begin like this are of files still being written; a killed writer leaves them behind."""

_MAX_BYTES = 16 * 2**30
# O_NOFOLLOW: a link could lead anywhere. O_NONBLOCK: a FIFO in the place of a file must not block the open.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class EntryDamaged(Exception):
    """A file must not be used; the text says why."""


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder that only this user or root may change, and yield its descriptor.

    Raises:
        FileNotFoundError: there is none.
        EntryDamaged: it is a link or no folder, has another owner, or others may write to it.
    """
    try:
        descriptor = os.open(path, _FLAGS | os.O_DIRECTORY)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise EntryDamaged(f"{path.name} is no folder of ours: {exc.strerror}") from exc
    try:
        require_ours(os.fstat(descriptor), path.name)
        yield descriptor
    finally:
        os.close(descriptor)


def read_checked(folder: int, name: str) -> bytes:
    """Read a file below the folder, through one descriptor that is checked after it was opened.

    Raises:
        FileNotFoundError: there is none.
        EntryDamaged: it is a link, no regular file, has another owner, or others may write to it.
    """
    if name.startswith("/") or ".." in Path(name).parts:
        raise EntryDamaged(f"{name} does not lie in its entry")
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise EntryDamaged(f"{name} cannot be read: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        require_ours(status, name)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise EntryDamaged(f"{name} is no plain file")
        return stream.read()


def require_ours(status: os.stat_result, name: str) -> None:
    """Refuse a file that somebody else could have written.

    Raises:
        EntryDamaged: with owner and mode.
    """
    # Root can write any file anyway, so its files are as good as ours.
    owners = {os.geteuid(), 0}
    if status.st_uid not in owners:
        raise EntryDamaged(f"{name} belongs to user {status.st_uid}, but this program runs as {os.geteuid()}")
    if status.st_mode & 0o022:
        raise EntryDamaged(f"{name} has mode {stat.S_IMODE(status.st_mode):o}: others may write it")


def files_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder, relative to it. Links are listed too, and refused when read."""
    names = []
    for parent, _, files in os.walk(folder, followlinks=False):
        names += [str((Path(parent) / file).relative_to(folder)) for file in files if not file.startswith(UNFINISHED)]
    return sorted(names)
