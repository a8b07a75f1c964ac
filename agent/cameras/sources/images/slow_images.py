"""Images that keep their decoder too long: named, and not read again, also not after a restart.

A decoder cannot be stopped from outside, and the watchdog ends the process if it takes half a minute. So while it
still works the file is written down, with size and time of change, and the next start leaves it out.

    <state>/slow_images/<hash of the folder>.json
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.runtime.logs import get_logger
from engines import JsonRecord

log = get_logger(__name__)

FOLDER = "slow_images"
NOTICED_AFTER_S = 5.0
_LOOK_EVERY_S = 0.5
_STOP_S = 1.0
_MAX_REMEMBERED = 1000

_Identity = tuple[str, int, int]


class SlowImages:
    """The slow images of one folder. ``reading`` and ``is_known`` are for the source's thread.

    Between ``start`` and ``stop`` a thread looks how long the present image takes.
    """

    def __init__(self, folder: Path, state_dir: Path | None, *, noticed_after_s: float = NOTICED_AFTER_S) -> None:
        """Without ``state_dir`` they are known until the end of the process."""
        self._noticed_after_s = noticed_after_s
        name = hashlib.sha256(str(folder).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        path = None if state_dir is None else state_dir / FOLDER / f"{name}.json"
        self._record = None if path is None else JsonRecord(path, encode=list, decode=_identities_from)
        self._known: list[_Identity] = (self._record.load() if self._record is not None else None) or []
        self._reading: tuple[Path, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look; does nothing when it has begun."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, name="slow-images", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(_STOP_S)

    def is_known(self, path: Path) -> bool:
        """Whether this file took too long before and has not changed since."""
        return bool(self._known) and _identity(path) in self._known

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """The time in which ``path`` is read and decoded."""
        self._reading = (path, time.monotonic())
        try:
            yield
        finally:
            self._reading = None

    def _watch(self) -> None:
        while not self._stop.wait(min(_LOOK_EVERY_S, self._noticed_after_s / 2)):
            reading = self._reading
            if reading is not None and time.monotonic() - reading[1] >= self._noticed_after_s:
                self._remember(reading[0])

    def _remember(self, path: Path) -> None:
        identity = _identity(path)
        if identity is None or identity in self._known:
            return
        self._known = [*self._known, identity][-_MAX_REMEMBERED:]
        log.warning("image.slow", path=identity[0], after_s=self._noticed_after_s)
        if self._record is not None:
            with suppress(OSError):  # without a writable state it is known until the end of the process
                self._record.path.parent.mkdir(mode=0o700, exist_ok=True)
                self._record.save(self._known)


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path).encode("utf-8", "backslashreplace").decode(), status.st_size, status.st_mtime_ns


def _identities_from(value: Any) -> list[_Identity]:
    return [(str(path), int(size), int(changed_ns)) for path, size, changed_ns in value]
