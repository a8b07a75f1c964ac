"""Which files of a folder were taken already, also before the last start."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engines import write_atomic

_UNREAD = "-"
_LINE = re.compile(r"^(-?[0-9]+ [0-9]+ [0-9a-f]{32}) ([0-9]+) ([0-9a-f]{64}|-)\n", re.MULTILINE)
_MAX_ABSENT = 20_000
"""Files that are remembered while none of them is there; a line has about 130 bytes."""


class FileVersion(NamedTuple):
    """One content of one file: another content has another time or size, another file another inode."""

    modified_ns: int
    size: int
    inode: int
    name: str


class _Taken(NamedTuple):
    """The inode of a version when it was taken, and the SHA-256 of its bytes; ``_UNREAD`` if they were not read."""

    inode: int
    content: str


class SeenFiles:
    """The versions that were taken, one line each in ``record``; in memory alone if that is None.

    A version is written down before its image is delivered, so a crash never delivers it twice. Some file systems
    (FAT, some network drives) give their files new numbers at each mount, so a version that differs in its inode alone
    is known by its content. Used by one thread.
    """

    def __init__(self, record: Path | None) -> None:
        self._record = record
        self._seen: dict[str, _Taken] = {}
        self.is_new = True
        """There was no record: the folder is watched for the first time."""

    def __contains__(self, version: FileVersion) -> bool:
        taken = self._seen.get(_key(version))
        return taken is not None and (taken.inode == version.inode or taken.content == _UNREAD)

    def has_content(self, version: FileVersion, sha256: str) -> bool:
        """Whether it was taken with these bytes, under this inode or another."""
        taken = self._seen.get(_key(version))
        return taken is not None and taken.content == sha256

    def load(self, present: Iterable[FileVersion]) -> None:
        """Read the record, and forget the files that are no longer there.

        If none of them is there, nothing is forgotten: the folder may be the empty place of a drive that is away.

        Raises:
            OSError: it cannot be read or written.
        """
        if self._record is not None and self._record.exists():
            self.is_new = False
            self._seen = dict(_parsed(self._record.read_text(encoding="ascii", errors="replace")))
        self._keep(present)

    def prune(self, present: Sequence[FileVersion]) -> None:
        """Forget what is no longer there, as ``load`` does, once that is most of what is remembered.

        Raises:
            OSError: the record cannot be written.
        """
        if len(self._seen) > 2 * (len(present) + _MAX_ABSENT):
            self._keep(present)

    def add(self, version: FileVersion, sha256: str = _UNREAD) -> None:
        """Remember a version, with the hash of its bytes if they were read.

        Raises:
            OSError: it cannot be written down.
        """
        key, taken = _key(version), _Taken(version.inode, sha256)
        if self._record is not None:
            with self._record.open("a", encoding="ascii") as record:
                record.write(_line(key, taken))
        self._seen[key] = taken
        self.is_new = False

    def _keep(self, present: Iterable[FileVersion]) -> None:
        self._seen = _still_needed(self._seen, {_key(version) for version in present})
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            lines = [_line(key, taken) for key, taken in sorted(self._seen.items())]
            write_atomic(self._record, "".join(lines).encode())


def _still_needed(seen: Mapping[str, _Taken], present: set[str]) -> dict[str, _Taken]:
    """Those that are present; if none is, the newest."""
    there = {key: taken for key, taken in seen.items() if key in present}
    if there or not seen:
        return there
    newest = sorted(seen, key=lambda key: int(key.split(" ", 1)[0]), reverse=True)[:_MAX_ABSENT]
    return {key: seen[key] for key in newest}


def _key(version: FileVersion) -> str:
    """Time, size and name; fits on one line whatever the name holds."""
    name = hashlib.sha256(os.fsencode(version.name)).hexdigest()[:32]
    return f"{version.modified_ns} {version.size} {name}"


def _line(key: str, taken: _Taken) -> str:
    return f"{key} {taken.inode} {taken.content}\n"


def _parsed(text: str) -> Iterable[tuple[str, _Taken]]:
    """The lines of a record, without one that a crash left unfinished."""
    for found in _LINE.finditer(text):
        yield found[1], _Taken(int(found[2]), found[3])
