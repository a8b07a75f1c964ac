"""Images that others put into a folder, each taken once."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import time
from collections import deque
from pathlib import Path

from agent.cameras.sources.base import Capture
from agent.cameras.sources.images.image_file import ImageFiles, is_image_name, sendable
from agent.cameras.sources.images.seen_files import FileVersion, SeenFiles
from agent.config.sections.sources import FolderSource
from agent.runtime.clock import Clock
from engines import ImageRejected

FOLDERS = "folders"
_IDLE_S = 5.0
"""After so long without a file ``read`` returns None."""
_LOOKS_PER_PAUSE, _MAX_PAUSE_S = 20.0, 10.0
"""A look at a folder of very many files takes long: the pause is so many times as long, for at most 5 % of a core."""


class WatchedFolder(ImageFiles):
    """The images of a folder as they come; nothing is dropped, and there is no end.

    It is listed every ``poll_s``, which works on network drives too. A file counts as whole once its size and time
    have not changed for ``settle_s``. One that cannot be decoded is skipped, counted and logged, and read again if it
    changes. ``captured_at_ns`` is when the reading began.
    """

    is_live = False
    has_end = False
    kind = "folder"

    def __init__(
        self, config: FolderSource, *, base_dir: Path, clock: Clock, state_dir: Path | None, idle_s: float = _IDLE_S
    ) -> None:
        """``state_dir`` None forgets at the end of the process what was taken. ``read`` waits for ``idle_s``."""
        super().__init__(config, base_dir=base_dir, clock=clock, state_dir=state_dir)
        self._config = config
        self._move_to = None if config.move_to is None else base_dir / config.move_to
        name = hashlib.sha256(os.fsencode(self._path.absolute())).hexdigest()[:16]
        self._seen = SeenFiles(None if state_dir is None else state_dir / FOLDERS / name)
        self._idle_s = idle_s
        self._waiting: deque[FileVersion] | None = None
        self._unchanged_since: dict[FileVersion, float] = {}
        self._odd: set[str] = set()

    def open(self) -> None:
        """See Source."""
        self.check_open()
        if self._waiting is not None:
            return
        try:
            present = self._list()
            self._seen.load(present)
            if self._seen.is_new and self._config.existing == "skip":
                for version in present:
                    self._seen.add(version)
            if self._move_to is not None:
                self._move_to.mkdir(parents=True, exist_ok=True)
                self._check_moves_away(self._move_to)
        except OSError as exc:
            raise self.unavailable(
                "missing",
                f"{self.description} cannot be watched: {exc.strerror or exc} ({sendable(str(exc.filename))}). Create "
                "it, or correct `path`, `move_to` or its permissions",
            ) from exc
        self._slow.start()
        self._waiting = deque()

    def read(self) -> Capture | None:
        """See Source. ``missing``: the folder is gone, or a file cannot be moved or deleted."""
        deadline = time.monotonic() + self._idle_s
        while True:
            waiting = self.opened(self._waiting)
            looked_s = 0.0
            try:
                if not waiting:
                    began = time.monotonic()
                    waiting.extend(self._whole())
                    looked_s = time.monotonic() - began
                capture = self._take(waiting.popleft()) if waiting else None
            except OSError as exc:
                raise self.lost(
                    "missing", f"{self.description}: {exc.strerror or exc} ({sendable(str(exc.filename))})"
                ) from exc
            if capture is not None:
                return capture
            if waiting:
                continue
            if time.monotonic() >= deadline:
                return None
            self.interrupted.wait(pause_s(self._config.poll_s, looked_s))

    def close(self) -> None:
        """See Source."""
        self._slow.stop()
        self._waiting = None
        self._unchanged_since.clear()

    def _list(self) -> list[FileVersion]:
        """The images in the folder, in the configured order."""
        found, odd = [], set()
        with os.scandir(self._path) as entries:
            for entry in entries:
                if not is_image_name(entry.name):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                except OSError as exc:
                    odd.add(entry.name)
                    self._skip_odd(entry, exc)
                    continue
                if stat.S_ISREG(status.st_mode):
                    found.append(FileVersion(status.st_mtime_ns, status.st_size, status.st_ino, entry.name))
        self._odd = odd
        return sorted(found, key=(lambda one: one.name) if self._config.order == "name" else None)

    def _check_moves_away(self, move_to: Path) -> None:
        if move_to.samefile(self._path):
            raise self.unavailable(
                "move_to",
                f"{self.description}: `move_to` must be another folder, but {sendable(str(self._config.move_to))} is "
                f"{sendable(os.path.realpath(move_to))}, which is the watched folder. Correct `move_to`, for example "
                "to a folder in it: subfolders are left alone",
            )

    def _skip_odd(self, entry: os.DirEntry[str], error: OSError) -> None:
        """Count and name an entry that cannot be looked at, such as a loop of links, once and not at each look."""
        if entry.name not in self._odd:
            self._skip_file(entry.path, error.strerror or str(error))

    def _whole(self) -> list[FileVersion]:
        """The new files that nobody writes to any more."""
        now_s, present = time.monotonic(), self._list()
        self._seen.prune(present)
        new = [version for version in present if version not in self._seen]
        self._unchanged_since = {version: self._unchanged_since.get(version, now_s) for version in new}
        return [version for version in new if self._is_settled(version, now_s)]

    def _is_settled(self, version: FileVersion, now_s: float) -> bool:
        age_s = (self._clock.utc_ns() - version.modified_ns) / 1e9
        return max(age_s, now_s - self._unchanged_since[version]) >= self._config.settle_s

    def _take(self, version: FileVersion) -> Capture | None:
        """Read one file; None if it is gone or no image."""
        path = self._path / version.name
        try:
            capture = self._read_file(path)
        except FileNotFoundError:
            return None
        except ImageRejected as exc:
            self._skip_file(str(path), exc.message)
            self._seen.add(version)
            return None
        if self._config.after == "keep":
            content = "" if capture.origin is None else capture.origin.sha256
            is_known = self._seen.has_content(version, content)
            self._seen.add(version, content)
            if is_known:
                return None  # only its inode differs
        elif self._config.after == "delete":
            path.unlink(missing_ok=True)
        elif self._move_to is not None:
            _move(path, self._move_to)
        self.count_delivered()
        return capture


def pause_s(poll_s: float, looked_s: float) -> float:
    """Seconds until the next look, after one that took ``looked_s``."""
    return max(poll_s, min(looked_s * _LOOKS_PER_PAUSE, _MAX_PAUSE_S))


def _move(path: Path, folder: Path) -> None:
    """Move a file under its name, or one with a number where that is taken. If it fails, ``folder`` is as before."""
    target = _reserved(folder / path.name)
    try:
        try:
            path.replace(target)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            shutil.copy2(path, target)
            path.unlink()
    except OSError:
        target.unlink()
        raise


def _reserved(path: Path) -> Path:
    """An empty file at ``path``, or with a number where another file or link is: nobody else takes the name then."""
    number, free = 0, path
    while not _is_made(free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _is_made(path: Path) -> bool:
    """Make an empty file, unless the name is taken."""
    try:
        path.open("x").close()
    except FileExistsError:
        return False
    return True
