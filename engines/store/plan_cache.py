"""The plan cache: native code that this device has built for itself.

    <cache>/plans/<engine>-<model>-<precision>-<hash>/    one entry: the library's files and entry.json
    <cache>/plans/<the same name>.lock                    held during a build, so that two agents build once
    <cache>/plans/<the same name>.crashes                 starts that ended in a crash, see crash_counter.py
    <cache>/quarantine/                                   damaged or foreign entries, with the reason

``entry.json`` has everything that the entry was built from and the sha256 of every file. It is written last, so an
entry without it is unfinished. A plan is code that runs in this process: it is read only from files that this user or
root owns and nobody else may write, and the bytes that were hashed are the bytes that are used.
Source: TensorRT developer guide, "Engine plan files": deserialising one runs code from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from engines.base import Precision
from engines.errors import BuildCancelled
from engines.store.files import cache_errors, content_address, content_hash, read_regular, write_atomic
from engines.store.owned import EntryDamaged, files_below, open_folder, read_checked

MAX_BYTES = 4 * 2**30
"""Limit for all plans together; the least recently used are deleted first."""

_RECORD = "entry.json"
_FORM = 1
_QUARANTINED_KEPT = 4
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan depends on. ``facts`` are JSON values by name; other values make a different plan."""

    engine: str
    model: str
    precision: Precision
    facts: Mapping[str, object]

    @property
    def stem(self) -> str:
        """Hash of everything."""
        return content_address([self.engine, self.model, self.precision, dict(self.facts)])

    @property
    def name(self) -> str:
        """Name of the entry's directory."""
        return f"{self.engine}-{self.model}-{self.precision}-{self.stem}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One plan in the cache, from its record; times are UTC, ``used_at`` is the last load."""

    name: str
    directory: Path
    engine: str
    model: str
    precision: str
    facts: Mapping[str, object]
    files: Mapping[str, str]
    notes: Mapping[str, object]
    size_bytes: int
    built_at: str
    used_at: str


class PlanCache:
    """The plans below one cache directory. Safe for any number of threads and processes."""

    def __init__(self, cache_dir: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Create nothing yet."""
        self.root = cache_dir / "plans"
        self._quarantine = cache_dir / "quarantine"
        self._max_bytes = max_bytes

    def directory(self, key: PlanKey) -> Path:
        """The directory of ``key``'s entry, whether it exists or not."""
        return self.root / key.name

    def crash_marker(self, key: PlanKey) -> Path:
        """The file that counts the starts of a plan that is not trusted yet."""
        return self.root / f"{key.name}.crashes"

    def read(self, key: PlanKey, *, is_locked: bool = False) -> dict[str, bytes] | None:
        """Return the files of an entry by name; None if there is no finished entry.

        An entry that cannot be trusted is moved to quarantine, and None is returned. ``is_locked``: the caller holds
        the key's lock; otherwise an entry that another process is writing is left alone.

        Raises:
            EngineUnavailable: the cache directory cannot be written, and an entry must be moved.
        """
        try:
            return self._verified(key)
        except FileNotFoundError:
            return None
        except EntryDamaged as exc:
            if is_locked:
                self.quarantine(key, str(exc))
                return None
        # Damaged, or another process is writing it right now: only the holder of the lock can tell.
        with cache_errors(self.root), self._lock_at_once(key.name) as is_mine:
            return self.read(key, is_locked=True) if is_mine else None

    def is_complete(self, key: PlanKey) -> bool:
        """Whether there is a finished entry; its content is checked when it is read."""
        return (self.directory(key) / _RECORD).is_file()

    def store(self, key: PlanKey, content: Mapping[str, bytes], notes: Mapping[str, object]) -> None:
        """Write an entry of one or more files, the record last, and delete old entries to make room.

        Raises:
            EngineUnavailable: the cache directory cannot be written.
        """
        directory = self.directory(key)
        with cache_errors(self.root):
            self._make_root()
            _remove(directory)
            directory.mkdir(mode=0o700)
            for name, data in content.items():
                write_atomic(directory / name, data)
        self.seal(key, notes)

    def begin(self, key: PlanKey) -> Path:
        """Return an empty directory for a library that writes its own files; ``seal`` turns it into an entry.

        Raises:
            EngineUnavailable: the cache directory cannot be written.
        """
        directory = self.directory(key)
        with cache_errors(self.root):
            self._make_root()
            _remove(directory)
            directory.mkdir(mode=0o700)
        return directory

    def seal(self, key: PlanKey, notes: Mapping[str, object]) -> None:
        """Write the record of the files in the entry's directory, which makes it valid.

        Raises:
            EngineUnavailable: the cache directory cannot be written.
        """
        directory = self.directory(key)
        with cache_errors(directory):
            hashes = {
                name: content_hash((directory / name).read_bytes())
                for name in files_below(directory)
                if name != _RECORD
            }
        record = {
            "form": _FORM,
            "engine": key.engine,
            "model": key.model,
            "precision": key.precision,
            "facts": dict(key.facts),
            "files": hashes,
            "notes": dict(notes),
            "built_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with cache_errors(directory):
            write_atomic(directory / _RECORD, json.dumps(record, indent=1, sort_keys=True).encode())
        # A new plan starts without crashes.
        self.crash_marker(key).unlink(missing_ok=True)
        self.prune(keep=key.name)

    def quarantine(self, key: PlanKey, reason: str) -> None:
        """Move an entry to quarantine with the reason; if it cannot be moved, delete it."""
        directory = self.directory(key)
        target = self._quarantine / f"{key.name}-{time.time_ns()}"
        try:
            self._quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.rename(target)
            (self._quarantine / f"{target.name}.txt").write_text(f"{reason}\n", encoding="utf-8")
        except OSError:
            with cache_errors(self.root):
                _remove(directory)
        for old in sorted(self._quarantine.glob("*.txt"), key=_changed_at)[:-_QUARANTINED_KEPT]:
            _remove(old.with_suffix(""))
            old.unlink(missing_ok=True)

    def why_quarantined(self, key: PlanKey) -> str | None:
        """Why the newest entry of this key was quarantined; None if none was."""
        found = sorted(self._quarantine.glob(f"{key.name}-*.txt"), key=_changed_at)
        try:
            return found[-1].read_text(encoding="utf-8", errors="replace").strip() if found else None
        except FileNotFoundError:  # another process has deleted it
            return None

    def why_not_another(self, key: PlanKey) -> str | None:
        """Why a cached plan of the same model does not fit, with both facts; None if there is none."""
        related = [
            entry
            for entry in self.entries()
            if (entry.engine, entry.model, entry.precision) == (key.engine, key.model, key.precision)
            and entry.name != key.name
        ]
        if not related:
            return None
        newest = max(related, key=lambda entry: entry.built_at)
        return f"plan {newest.name} does not fit: {disagreement(newest.facts, key.facts)}"

    def entries(self) -> list[PlanEntry]:
        """Return every finished entry, the last used first; unreadable ones are left out."""
        found = []
        for directory in self.root.iterdir() if self.root.is_dir() else ():
            entry = _entry(directory) if directory.is_dir() else None
            if entry is not None:
                found.append(entry)
        return sorted(found, key=lambda entry: entry.used_at, reverse=True)

    def prune(self, *, max_bytes: int | None = None, keep: str | None = None) -> list[PlanEntry]:
        """Delete the least recently used entries until all fit into ``max_bytes``; return the deleted ones.

        Entries that another process builds or opens right now stay, and so do those that cannot be deleted.
        """
        room = self._max_bytes if max_bytes is None else max_bytes
        gone = []
        # Last used first, so the entries that no longer fit are the least recently used.
        for entry in self.entries():
            room -= entry.size_bytes
            if room < 0 and entry.name != keep and self._delete(entry):
                gone.append(entry)
                room += entry.size_bytes
        return gone

    def _delete(self, entry: PlanEntry) -> bool:
        with contextlib.suppress(OSError), self._lock_at_once(entry.name) as is_mine:
            if is_mine:
                _remove(entry.directory)
                for suffix in (".crashes", ".lock"):
                    (self.root / f"{entry.name}{suffix}").unlink(missing_ok=True)
            return is_mine
        return False

    @contextlib.contextmanager
    def locked(
        self,
        key: PlanKey,
        *,
        is_cancelled: Callable[[], bool],
        on_wait: Callable[[], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> Iterator[None]:
        """Hold the lock for building ``key``; the kernel releases it when this process dies.

        ``on_wait`` is called repeatedly while another process holds it.

        Raises:
            BuildCancelled: ``is_cancelled`` returned True while waiting.
            EngineUnavailable: the cache directory cannot be written.
        """
        while (descriptor := self._lock(key.name)) is None:
            if is_cancelled():
                raise BuildCancelled(f"waiting for another build of {key.model} was stopped", model=key.model)
            on_wait()
            pause(_LOCK_POLL_S)
        try:
            yield
        finally:
            # This releases the lock. The file stays: after a deletion, waiters and newcomers would lock different
            # files.
            os.close(descriptor)

    @contextlib.contextmanager
    def _lock_at_once(self, name: str) -> Iterator[bool]:
        """Try to hold the lock for the block; yield False if another process has it."""
        descriptor = self._lock(name)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _lock(self, name: str) -> int | None:
        """Return the locked descriptor; None if another process has the lock, or has just deleted the file."""
        path = self.root / f"{name}.lock"
        with cache_errors(self.root):
            self._make_root()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        # The holder before may have deleted the file between our open and our flock: such a lock protects nothing.
        if _try_lock(descriptor) and _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _make_root(self) -> None:
        """Create the folder and close it to others: ONNX Runtime opens files in it on its own."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self.root.stat()
        if status.st_uid == os.geteuid() and status.st_mode & 0o022:
            self.root.chmod(stat.S_IMODE(status.st_mode) & ~0o022)

    def _verified(self, key: PlanKey) -> dict[str, bytes]:
        directory = self.directory(key)
        with open_folder(directory) as folder:
            record = _parsed(read_checked(folder, _RECORD))
            stated = record.get("facts")
            # Compared in the form that JSON gives: tuples become lists.
            if stated != json.loads(json.dumps(key.facts)):
                facts = stated if isinstance(stated, dict) else {}
                raise EntryDamaged(
                    f"plan {key.name} does not fit: {disagreement(facts, key.facts)}. It is built again"
                )
            hashes = record.get("files")
            if not isinstance(hashes, dict) or sorted(hashes) != [
                name for name in files_below(directory) if name != _RECORD
            ]:
                raise EntryDamaged(f"plan {key.name} has other files than its record lists. It is built again")
            content = {str(name): read_checked(folder, str(name)) for name in hashes}
            for name, data in content.items():
                found = content_hash(data)
                if found != hashes[name]:
                    raise EntryDamaged(
                        f"plan {key.name}: {name} has sha256 {found[:16]} and {len(data)} bytes, but its record "
                        f"states {str(hashes[name])[:16]}. It is built again"
                    )
        with contextlib.suppress(OSError):  # a read-only cache just keeps its order of use
            os.utime(directory / _RECORD)
        return content


def disagreement(stated: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """Name the facts in which a plan and this device differ."""
    names = [
        name for name in sorted({*stated, *wanted}) if stated.get(name) != json.loads(json.dumps(wanted.get(name)))
    ]
    return "; ".join(
        f"it was built for {name} {stated.get(name)}, but this device has {wanted.get(name)}" for name in names[:4]
    )


def _parsed(data: bytes) -> dict[str, object]:
    try:
        record = json.loads(data)
    except ValueError as exc:
        raise EntryDamaged(f"its record is not JSON: {exc}") from exc
    if not isinstance(record, dict) or record.get("form") != _FORM:
        raise EntryDamaged("its record is not in this program's format")
    return record


def _entry(directory: Path) -> PlanEntry | None:
    path = directory / _RECORD
    try:
        record = _parsed(read_regular(path))
        files = [directory / name for name in files_below(directory)]
        return PlanEntry(
            name=directory.name,
            directory=directory,
            engine=str(record["engine"]),
            model=str(record["model"]),
            precision=str(record["precision"]),
            facts=_mapping(record["facts"]),
            files={name: str(value) for name, value in _mapping(record["files"]).items()},
            notes=_mapping(record["notes"]),
            size_bytes=sum(file.stat().st_size for file in files),
            built_at=str(record["built_at"]),
            used_at=datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).isoformat(timespec="microseconds"),
        )
    # Another process may be writing or deleting the entry right now.
    except (OSError, EntryDamaged, KeyError, ValueError):
        return None


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise EntryDamaged("its record is not in this program's format")
    return value


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to the file opened from it."""
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _changed_at(path: Path) -> float:
    """When a file was written; one that another process has just deleted counts as the oldest."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not stat.S_ISDIR(path.lstat().st_mode)):
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
