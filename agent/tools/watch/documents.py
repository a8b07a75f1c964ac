"""Reads messages of unknown senders: any field may be absent or have the wrong type."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

MAX_NAME_CHARACTERS = 200
_MAX_TEXT_CHARACTERS = 1000
"""An error ends with what to do about it."""
_MAX_NUMBER = 1e18
MAX_BYTES = 256 * 1024


class Document:
    """One JSON object; readers return None or an empty value for what is absent or has another type."""

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, object] | None = None) -> None:
        self._data: Mapping[str, object] = {} if data is None else data

    def __bool__(self) -> bool:
        return bool(self._data)

    def value(self, *path: str) -> object:
        """The value at ``path``, of any type; None if absent."""
        found: object = self._data
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def text(self, *path: str) -> str | None:
        """Text without control characters, of at most 1000."""
        found = self.value(*path)
        return printable(found, _MAX_TEXT_CHARACTERS) if isinstance(found, str) else None

    def number(self, *path: str) -> float | None:
        """A number as a float; None above 1e18, whose sums and shares could not be shown."""
        found = self.value(*path)
        if isinstance(found, bool) or not isinstance(found, int | float) or abs(found) > _MAX_NUMBER:
            return None
        return float(found)

    def flag(self, *path: str) -> bool:
        """True only for a JSON true."""
        return self.value(*path) is True

    def section(self, *path: str) -> Document:
        """The object at ``path``; an empty one if there is none."""
        found = self.value(*path)
        return Document(found if isinstance(found, Mapping) else None)

    def names(self) -> list[str]:
        """The keys, unchanged; use `printable` before showing one."""
        return list(self._data)

    def texts(self, *path: str) -> list[str]:
        """The texts of the list at ``path``; what is no text is left out."""
        found = self.value(*path)
        return [printable(one) for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def numbers(self, *path: str) -> list[float]:
        """The numbers of the list at ``path``; what is no number is left out."""
        found = self.value(*path)
        parts = [Document({"one": one}).number("one") for one in found] if isinstance(found, list) else []
        return [one for one in parts if one is not None]

    def total(self, *path: str) -> int:
        """The sum of the numbers of the object at ``path``."""
        section = self.section(*path)
        return int(sum(section.number(name) or 0.0 for name in section.names()))


def printable(text: str, limit: int = MAX_NAME_CHARACTERS) -> str:
    """``text`` cut to ``limit`` characters, without control characters, so that a topic cannot control a terminal."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut if cut.isprintable() else "".join(char if char.isprintable() else "�" for char in cut)


def document_from_payload(payload: bytes) -> Document | None:
    """The JSON object in ``payload``; None for anything else."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return Document(data) if isinstance(data, dict) else None
