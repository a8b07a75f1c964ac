"""Writes files that are whole or absent: a power cut leaves the old one, or none."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engines.errors import EngineUnavailable


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, readable by this user alone, and make its folder where it is missing.

    Raises:
        EngineUnavailable: the folder cannot be written.
    """
    try:
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
    except OSError as exc:
        raise EngineUnavailable(
            f"the cache directory {path.parent} cannot be used: {exc.strerror or exc}. Free or change it",
            cache_dir=str(path.parent),
        ) from exc
