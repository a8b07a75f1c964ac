"""Which files of a folder were taken already, also before the last start."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from engines import write_atomic


class FileVersion(NamedTuple):
    """One content of one file: another content has another time or size, another file another inode."""

    modified_ns: int
    size: int
    inode: int
    name: str


class SeenFiles:
    """The versions that were taken, one line each in ``record``; in memory alone if that is None.

    A version is written down before its image is delivered, so a crash never delivers it twice. Used by one thread.
    """

    def __init__(self, record: Path | None) -> None:
        self._record = record
        self._seen: set[str] = set()
        self.is_new = True
        """There was no record: the folder is watched for the first time."""

    def __contains__(self, version: FileVersion) -> bool:
        return _line(version) in self._seen

    def load(self, present: Iterable[FileVersion]) -> None:
        """Read the record, and forget the files that are no longer there.

        Raises:
            OSError: it cannot be read or written.
        """
        if self._record is not None and self._record.exists():
            self.is_new = False
            self._seen = set(self._record.read_text(encoding="ascii").splitlines())
        self._seen &= {_line(version) for version in present}
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._record, "".join(f"{line}\n" for line in sorted(self._seen)).encode())

    def add(self, version: FileVersion) -> None:
        """Remember a version.

        Raises:
            OSError: it cannot be written down.
        """
        line = _line(version)
        if self._record is not None:
            with self._record.open("a", encoding="ascii") as record:
                record.write(f"{line}\n")
        self._seen.add(line)
        self.is_new = False


def _line(version: FileVersion) -> str:
    """Fits on one line whatever the name holds."""
    name = hashlib.sha256(os.fsencode(version.name)).hexdigest()[:32]
    return f"{version.modified_ns} {version.size} {version.inode} {name}"
