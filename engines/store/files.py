"""Files that are whole or absent: after a power cut there is the old content, or none.

``write_atomic`` is the only writer. A content that must be recognised as damaged has its sha256 in ``<name>.sha256``
beside it; the sidecar is written last and makes the pair valid.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import EngineUnavailable
from engines.store.owned import UNFINISHED, open_folder, read_checked

_ADDRESS_CHARS = 32
_MAX_BYTES = 64 * 2**20
_MAX_CHECKED_BYTES = 16 * 2**30


def write_atomic(path: Path, content: bytes, *, is_durable: bool = True, is_private: bool = True) -> None:
    """Replace ``path`` with ``content``; create its folder (mode 0700) if it is missing.

    ``is_durable``: the content reaches the disk before it replaces the old one, at the cost of an fsync.
    ``is_private``: readable by this user alone; otherwise as the process's umask allows.

    Raises:
        OSError: it cannot be written; the old content is untouched. ``cache_errors`` translates it for the cache.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp refuses to follow a link that somebody placed under the name, and creates with mode 0600.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            if not is_private:
                os.fchmod(handle, 0o666 & ~_umask())
            if is_durable:
                stream.flush()
                os.fsync(handle)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_regular(path: Path, *, max_bytes: int = _MAX_BYTES) -> bytes:
    """Read a file that must be a regular one. A FIFO or a device in its place neither blocks nor reads without end.

    Raises:
        OSError: there is none, it cannot be read, or it is no regular file.
        ValueError: it is larger than ``max_bytes``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise ValueError(f"{path.name} is larger than {max_bytes} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)


def path_exists(path: Path, look: Callable[[Path], bool]) -> bool:
    """Whether ``path`` exists and ``look`` (Path.is_file, Path.is_dir, Path.exists) accepts it.

    Since Python 3.14 ``look`` alone takes every error for an absent file.

    Raises:
        OSError: the path cannot be reached, for example because a folder above it is closed to this user.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return look(path)


def write_with_checksum(path: Path, content: bytes) -> None:
    """``write_atomic`` for ``content`` and then for its sidecar.

    Raises:
        OSError: see ``write_atomic``.
    """
    write_atomic(path, content)
    write_atomic(_sidecar(path), content_hash(content).encode())


def read_with_checksum(path: Path) -> bytes | None:
    """Return what ``write_with_checksum`` wrote; None if either file is missing or the content has changed.

    Raises:
        OSError: a file is there and cannot be read.
    """
    try:
        content = read_regular(path, max_bytes=_MAX_CHECKED_BYTES)
        stated = read_regular(_sidecar(path), max_bytes=_MAX_CHECKED_BYTES).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    return content if content_hash(content) == stated else None


def read_owned_with_checksum(path: Path) -> bytes | None:
    """``read_with_checksum`` for files that only this user or root can have written.

    Raises:
        EntryDamaged: a file is a link, or others may write it.
        OSError: a file is there and cannot be read.
    """
    try:
        with open_folder(path.parent) as folder:
            content, stated = read_checked(folder, path.name), read_checked(folder, _sidecar(path).name)
    except FileNotFoundError:
        return None
    return content if content_hash(content).encode() == stated.strip() else None


def content_hash(content: bytes) -> str:
    """The sha256 of ``content`` in lower-case hex."""
    return hashlib.sha256(content).hexdigest()


def content_address(facts: object, *, chars: int = _ADDRESS_CHARS) -> str:
    """Name something by the JSON values that it depends on: equal facts give the same name, others another one."""
    return content_hash(json.dumps(facts, sort_keys=True).encode())[:chars]


@contextmanager
def cache_errors(
    cache_dir: Path, advice: str = "Make it writable for this user, free some space, or name another state_dir"
) -> Iterator[None]:
    """Turn an OSError into an error that names the cache directory and what to do.

    Raises:
        EngineUnavailable: the directory cannot be used.
    """
    try:
        yield
    except OSError as exc:
        raise EngineUnavailable(
            f"the cache directory {cache_dir} cannot be used: {exc.strerror or exc}. {advice}",
            cache_dir=str(cache_dir),
        ) from exc


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _umask() -> int:
    # os.umask can only be read by setting it, which other threads would see. Source: proc(5), /proc/pid/status.
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next((int(line.split()[1], 8) for line in lines if line.startswith("Umask:")), 0o022)
    except OSError:
        return 0o022
