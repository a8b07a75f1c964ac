"""Reading messages of strangers: nothing in them is trusted to be there or to have its type."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

_LONGEST_TEXT = 200
_LARGEST_NUMBER = 1e18
MAX_BYTES = 256 * 1024


class Document:
    """One JSON object; every reader gives None, or nothing, for what is absent or of another type."""

    __slots__ = ("_data",)

    def __init__(self, data: Mapping[str, object] | None = None) -> None:
        self._data: Mapping[str, object] = {} if data is None else data

    def __bool__(self) -> bool:
        return bool(self._data)

    def value(self, *path: str) -> object:
        """Whatever stands at ``path``."""
        found: object = self._data
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def text(self, *path: str) -> str | None:
        """Text without anything that a terminal would obey."""
        found = self.value(*path)
        return printable(found) if isinstance(found, str) else None

    def number(self, *path: str) -> float | None:
        """A number, as a float; none that is so large that no sum or share of it could be shown."""
        found = self.value(*path)
        if isinstance(found, bool) or not isinstance(found, int | float) or abs(found) > _LARGEST_NUMBER:
            return None
        return float(found)

    def flag(self, *path: str) -> bool:
        """True only where it says true."""
        return self.value(*path) is True

    def section(self, *path: str) -> Document:
        """The object at ``path``, an empty one where there is none."""
        found = self.value(*path)
        return Document(found if isinstance(found, Mapping) else None)

    def names(self) -> list[str]:
        """The keys as they stand there; `printable` makes one fit to be shown."""
        return list(self._data)

    def texts(self, *path: str) -> list[str]:
        """The texts of the list at ``path``; what is no text is left out."""
        found = self.value(*path)
        return [printable(one) for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def total(self, *path: str) -> int:
        """The sum of the numbers of the object at ``path``."""
        section = self.section(*path)
        return int(sum(section.number(name) or 0.0 for name in section.names()))


def printable(text: str) -> str:
    """``text`` cut to a sensible length, with every control character replaced: a topic may not steer a terminal."""
    cut = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
    return cut if cut.isprintable() else "".join(char if char.isprintable() else "�" for char in cut)


def document_from_payload(payload: bytes) -> Document | None:
    """The object that ``payload`` holds; None where it holds anything else."""
    if len(payload) > MAX_BYTES:
        return None
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return Document(data) if isinstance(data, dict) else None
