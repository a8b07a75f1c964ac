"""Small JSON files: one value each, with the facts that it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from engines.store.files import content_address, read_regular, write_atomic
from engines.store.owned import EntryDamaged, open_folder, read_checked

T = TypeVar("T")


class RecordDamaged(Exception):
    """The file is not a record of this form with these facts, or cannot be read."""


class JsonRecord(Generic[T]):
    """One value in one JSON file: ``{"form": ..., "facts": ..., "value": ...}``.

    ``form`` is a number that is raised when the value changes its meaning. ``facts`` are what the value depends on; a
    record with other facts is not read. ``is_owned`` refuses files that others than this user or root could have
    written: for records whose forgery would switch off a protection.
    """

    def __init__(
        self,
        path: Path,
        *,
        encode: Callable[[T], object],
        decode: Callable[[Any], T],
        form: int = 1,
        facts: Mapping[str, object] | None = None,
        is_owned: bool = False,
        is_durable: bool = True,
    ) -> None:
        """Read nothing yet. If ``decode`` raises KeyError, TypeError, ValueError or AttributeError, the record is
        damaged. ``is_durable``: see ``write_atomic``; False for what is written often and may lose its last change.
        """
        self.path = path
        self._encode = encode
        self._decode = decode
        self._form = form
        self._facts: object = json.loads(json.dumps(dict(facts or {})))  # as they read from the disk: tuples are lists
        self._is_owned = is_owned
        self._is_durable = is_durable

    def read(self) -> T:
        """Return the value.

        Raises:
            FileNotFoundError: there is no record.
            RecordDamaged: there is a file, and it is no such record.
        """
        try:
            record = json.loads(self._content())
            if (record["form"], record["facts"]) != (self._form, self._facts):
                raise RecordDamaged(f"{self.path.name} has another form, or other facts")
            return self._decode(record["value"])
        except FileNotFoundError:
            raise
        except (OSError, EntryDamaged, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            raise RecordDamaged(f"{self.path.name}: {exc}") from exc

    def load(self) -> T | None:
        """Return the value, None if there is no record that can be read."""
        try:
            return self.read()
        except (FileNotFoundError, RecordDamaged):
            return None

    def save(self, value: T) -> None:
        """Write the record atomically.

        Raises:
            OSError: it cannot be written; see ``cache_errors``.
        """
        record = {"form": self._form, "facts": self._facts, "value": self._encode(value)}
        content = json.dumps(record, indent=1, sort_keys=True).encode()
        write_atomic(self.path, content, is_durable=self._is_durable)

    def _content(self) -> bytes:
        if not self._is_owned:
            return read_regular(self.path)
        with open_folder(self.path.parent) as folder:
            return read_checked(folder, self.path.name)


def record_path(folder: Path, facts: Mapping[str, object], *, prefix: str = "") -> Path:
    """Where the record of ``facts`` lies below ``folder``; ``prefix`` is for people who look at the folder."""
    return folder / f"{prefix}{content_address(dict(facts))}.json"
