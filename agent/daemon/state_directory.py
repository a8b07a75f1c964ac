"""The state directory: one agent at a time, the session number, and how the last run ended."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from agent.config.state_dir import cache_dir_in
from agent.runtime.errors import ConfigError, InUse
from agent.runtime.logs import get_logger
from engines import read_regular, write_atomic
from engines.store.owned import UNFINISHED

log = get_logger(__name__)

_LOCK = "lock"
_SESSION = "session"
_EXIT = "last-exit"
_STILL_RUNNING = "ended without a record: killed, crashed, or the power was cut"
_MAX_EXIT_BYTES = 4096
_MAX_SESSION_BYTES = 64
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG})
"""The disk is full, read-only or broken: no mistake in the configuration, and the agent can still classify."""
_CACHE_BYTES = 64 * 2**20
"""Room for the derived files of a model of usual size; with less, they go elsewhere."""


def blocked_in(directory: Path) -> list[Path]:
    """What has the name of a file that every start needs, and cannot be that file: a folder, or a FIFO."""
    blocked = []
    for name in (_LOCK, _SESSION, _EXIT):
        file = directory / name
        with contextlib.suppress(OSError):  # in a directory that this user cannot enter
            if file.is_dir() or (name == _SESSION and file.exists() and not file.is_file()):
                blocked.append(file)
    return blocked


def is_held(directory: Path) -> bool:
    """Whether an agent runs with ``directory``.

    Raises:
        PermissionError: this user may not look.
    """
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        raise
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class StateDirectory:
    """Holds the directory for this process while open.

    ``session`` counts the starts, from 1. ``previous_exit`` says how the last run ended; None before the first one. If
    the disk is full, read-only or broken, the agent starts all the same, and ``session`` is the start time in seconds
    since 1970, which is unique and keeps rising.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = 0
        self.previous_exit: str | None = None
        self._is_kept = True
        self._lock_fd: int | None = None
        self._scratch: Path | None = None

    @property
    def cache_dir(self) -> Path:
        """Where derived files go: below the directory, or a temporary one if there is no cache and no room for one.

        Valid once the directory is open.
        """
        return self._scratch or cache_dir_in(self.path)

    def open(self) -> None:
        """Make the directory if need be, lock it, and count this start.

        Raises:
            ConfigError: it cannot be made or written.
            InUse: another agent holds it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            if exc.errno in _OF_THE_DISK:
                self.previous_exit = self._read_exit()
                self._do_without(exc)
                return
            raise self._refusal("used", exc) from exc
        with ExitStack() as undo:
            undo.callback(os.close, descriptor)
            self._claim(descriptor)
            self._remove_unfinished()
            self.previous_exit = self._read_exit()
            self._begin()
            self._find_room()
            undo.pop_all()
        self._lock_fd = descriptor

    def record_exit(self, how: str) -> None:
        """Record for the next session how this one ends."""
        try:
            if not self._is_kept:
                self._write(_SESSION, str(self.session))
            self._write(_EXIT, how)
        except OSError as exc:
            # The disk filled up while the agent ran. The next session will report this one as killed.
            log.warning("state.write_failed", path=str(self.path), error=exc.strerror)

    def close(self) -> None:
        """Release the lock; harmless when called twice."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def __enter__(self) -> StateDirectory:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _claim(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise InUse(
                f"state_dir {self.path} is in use by another agent (process {holder}), and two cannot share one. "
                "Stop the other one, or give this one its own state_dir and device id",
                path=str(self.path),
                holder=holder,
            ) from exc
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only the number of its process is missing
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def _remove_unfinished(self) -> None:
        """Delete what a killed agent was writing. The lock is held, so nobody else writes here now."""
        for file in self.path.glob(f"{UNFINISHED}*"):
            with contextlib.suppress(OSError):  # read-only disk: it stays, and does no harm
                file.unlink()

    def _begin(self) -> None:
        try:
            self.session = self._count()
            self._write(_EXIT, _STILL_RUNNING)
        except OSError as exc:
            if exc.errno not in _OF_THE_DISK:
                raise self._refusal("written", exc) from exc
            self._do_without(exc)

    def _refusal(self, verb: str, exc: OSError) -> ConfigError:
        blocked = blocked_in(self.path)
        if blocked:
            text = (
                f"state_dir {self.path} cannot be {verb}: {blocked[0]} must be a regular file and is none. Delete it "
                "or move it away, or set state_dir to another one"
            )
            return ConfigError(text, path=str(self.path), file=str(blocked[0]))
        # filename2: the name that was to be replaced. The other is then a name that nobody knows.
        file = Path(exc.filename2 or exc.filename or self.path)
        where = "" if file == self.path or file.name.startswith(UNFINISHED) else f"{file}: "
        text = (
            f"state_dir {self.path} cannot be {verb}: {where}{exc.strerror}. Make it writable for this user, or set "
            "state_dir to another one"
        )
        return ConfigError(text, path=str(self.path), file=str(file))

    def _do_without(self, why: OSError) -> None:
        self._is_kept = False
        self.session = int(time.time())
        self._make_scratch()
        log.error("state.session_write_failed", path=str(self.path), error=why.strerror, session=self.session)

    def _find_room(self) -> None:
        """A nearly full disk has room for the session number and none for a model's graph."""
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.path).free
            if self._scratch is None and free < _CACHE_BYTES and self._make_scratch():
                log.warning("state.cache_relocated", path=str(self.path), free_bytes=free, wanted_bytes=_CACHE_BYTES)

    def _make_scratch(self) -> bool:
        """Use a temporary cache if there is none yet and /tmp has room. Otherwise the engines report the full disk."""
        if self._scratch is None and not cache_dir_in(self.path).is_dir():
            with contextlib.suppress(OSError):
                if shutil.disk_usage(tempfile.gettempdir()).free >= _CACHE_BYTES:
                    self._scratch = Path(tempfile.mkdtemp(prefix="agent-cache-"))
        return self._scratch is not None

    def _count(self) -> int:
        file = self.path / _SESSION
        try:
            last = int(read_regular(file, max_bytes=_MAX_SESSION_BYTES))
        except FileNotFoundError:
            last = 0
        except ValueError:
            # A torn or foreign file. The time of the last start keeps the number rising, as subscribers rely on.
            last = int(file.stat().st_mtime)
        self._write(_SESSION, str(last + 1))
        return last + 1

    def _read_exit(self) -> str | None:
        try:
            content = read_regular(self.path / _EXIT)[:_MAX_EXIT_BYTES]
            return content.decode("utf-8", "replace").strip() or None
        except (OSError, ValueError):
            return None

    def _write(self, name: str, text: str) -> None:
        # Plain text, no JsonRecord: people read these two files with cat. Support bundles copy them.
        write_atomic(self.path / name, f"{text}\n".encode(), is_private=False)
