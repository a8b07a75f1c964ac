"""Writes files that are whole or absent: a power cut leaves the old one, or none."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import EngineUnavailable


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, readable by this user alone, and make its folder where it is missing.

    Raises:
        EngineUnavailable: the folder cannot be written.
    """
    with cache_errors(path.parent):
        _replace(path, content)


def write_with_checksum(path: Path, content: bytes) -> None:
    """Write ``content`` as ``write_atomically`` does, and beside it its hash, ``<name>.sha256``, which makes it valid.

    Raises:
        OSError: the folder cannot be written; see ``cache_errors``.
    """
    _replace(path, content)
    _replace(_checksum_path(path), hashlib.sha256(content).hexdigest().encode())


def read_with_checksum(path: Path) -> bytes | None:
    """What ``write_with_checksum`` wrote; None where a file is missing, or where one is not what was written.

    Raises:
        OSError: a file is there and cannot be read.
    """
    try:
        content = path.read_bytes()
        stated = _checksum_path(path).read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest() == stated else None


@contextmanager
def cache_errors(cache_dir: Path, advice: str = "Free or change it") -> Iterator[None]:
    """Turn what the system says against a file into an error that names the cache directory and says what to do.

    Raises:
        EngineUnavailable: in place of an OSError.
    """
    try:
        yield
    except OSError as exc:
        raise EngineUnavailable(
            f"the cache directory {cache_dir} cannot be used: {exc.strerror or exc}. {advice}",
            cache_dir=str(cache_dir),
        ) from exc


def _checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
