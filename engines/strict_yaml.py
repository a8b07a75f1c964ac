"""YAML read strictly, with the line of every value.

Plain YAML has traps that turn a slip into a silently wrong value: ``no`` is false, ``010`` is eight, ``12:30`` is 750,
a repeated key wins quietly, an alias can blow a page up to gigabytes. Each is refused here by name, line and column.
Everything that is not refused reads the same under YAML 1.1 and 1.2, but for ``1e-3``, which is the number that was
meant (YAML 1.1 makes it text).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
_MAX_NUMBER_CHARS = 64

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_SPOKEN_BOOL = re.compile(r"(?i:yes|no|on|off)\Z")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_HEX = re.compile(r"[-+]?0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?\Z")
_TRAPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"[-+]?0[0-9_]+\Z"), "YAML may read it as an octal number"),
    (re.compile(r"[-+]?0[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?\Z"), "YAML versions read it differently"),
    (re.compile(r"[-+]?0(?:o[0-7]+|b[01_]+|x[0-9a-fA-F_]*_[0-9a-fA-F_]*)\Z"), "YAML versions read it differently"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?\Z"), "YAML may read it as a base-60 number"),
    (re.compile(r"[-+]?[0-9]+(?:_[0-9_]*(?:\.[0-9_]*)?|\.[0-9]*_[0-9_]*)(?:[eE][-+]?[0-9]+)?\Z"),
     "YAML versions read the underscore differently"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].*)?\Z"), "YAML may read it as a date"),
    (re.compile(r"[-+]?\.(?i:inf)\Z|\.(?i:nan)\Z"), "a number here must be finite"),
    (re.compile(r"=\Z"), "YAML may read it as a default value"),
)  # fmt: skip

KeyPath = tuple["str | int", ...]


class StrictYamlError(Exception):
    """The text is not what this reader takes; ``str()`` gives ``name:line:column: message``."""

    def __init__(self, name: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{name}:{line}:{column}: {message}")
        self.name = name
        self.line = line
        self.column = column
        self.message = message


@dataclass(frozen=True, slots=True)
class StrictDocument:
    """What one YAML text holds: dicts, lists, text, integers, floats, booleans and None, and where each stood."""

    name: str
    data: object
    lines: Mapping[KeyPath, int]

    def line_of(self, path: KeyPath) -> int:
        """The line (from 1) of the key or list item at ``path``; of its nearest parent where it does not exist."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """The valid key that ``key`` was probably meant to be, or None."""
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def load_strict(text: str, *, name: str) -> StrictDocument:
    """Read one YAML document; an empty one has ``data`` None.

    Raises:
        StrictYamlError: malformed, or something this reader refuses (see the module's docstring); ``name`` is in it.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise StrictYamlError(name, 1, 1, f"the file has {size} bytes, the limit is {MAX_BYTES}")
    builder = _Builder(name)
    try:
        for event in _events(text.removeprefix("\ufeff")):
            builder.take(event)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(part for part in (exc.context, exc.problem) if part)
        if "'\\t'" in problem:
            problem = "a tab where YAML wants blanks; indent with blanks alone"
        raise StrictYamlError(name, line, column, f"not valid YAML: {problem}") from exc
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        line, column = before.count("\n") + 1, exc.position - (before.rfind("\n") + 1) + 1
        raise StrictYamlError(name, line, column, "the text holds a character that YAML does not allow") from exc
    return StrictDocument(name, builder.data, MappingProxyType(builder.lines))


def _events(text: str) -> Iterator[yaml.Event]:
    """The parser's events; the pure Python loader, because its marks are exact and its parser does not recurse."""
    yield from yaml.parse(text, Loader=yaml.SafeLoader)


class _Level:
    """One open mapping or list."""

    __slots__ = ("awaits_value", "container", "first_lines", "key", "path")

    def __init__(self, container: dict[object, object] | list[object], path: KeyPath) -> None:
        self.container = container
        self.path = path
        self.key: str | int = 0
        self.awaits_value = False
        self.first_lines: dict[str | int, int] = {}


class _Builder:
    """Builds the data from parser events without recursion."""

    def __init__(self, name: str) -> None:
        self.data: object = None
        self.lines: dict[KeyPath, int] = {}
        self._name = name
        self._levels: list[_Level] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._start_document(event)
        elif isinstance(event, yaml.AliasEvent):
            raise self._error(event, f"alias *{event.anchor}: aliases are not taken here, repeat the value")
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._levels.pop()

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._error(event, "a second document starts here (---), this reader takes one")
        if event.tags:
            raise self._error(event, "%TAG directives are not taken here")

    def _take_node(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            raise self._error(event, f"anchor &{event.anchor}: anchors are not taken here, repeat the value")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._error(event, f"tag {tag}: tags are not taken here, quote the value if it is text")
        if isinstance(event, yaml.ScalarEvent):
            self._place(event, self._scalar(event))
            return
        container: dict[object, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._place(event, container)
        if len(self._levels) == MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        self._levels.append(_Level(container, path))

    def _place(self, event: yaml.Event, value: object) -> KeyPath:
        """Put a value where it belongs and remember its line; returns its path."""
        line, _ = _position(event)
        if not self._levels:
            self.data = value
            self.lines[()] = line
            return ()
        level = self._levels[-1]
        if isinstance(level.container, list):
            path = (*level.path, len(level.container))
            level.container.append(value)
            self.lines[path] = line
            return path
        if level.awaits_value:
            level.awaits_value = False
            level.container[level.key] = value
            return (*level.path, level.key)
        self._take_key(event, level, value, line)
        return level.path

    def _take_key(self, event: yaml.Event, level: _Level, key: object, line: int) -> None:
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise self._error(event, f"a key must be text, this one is {_kind(key)}; quote it")
        if key == "<<":
            raise self._error(event, "merge keys (<<) are not taken here, repeat the values")
        if key in level.first_lines:
            raise self._error(event, f"key {key!r} is there twice, first on line {level.first_lines[key]}; remove one")
        level.first_lines[key] = line
        level.key = key
        level.awaits_value = True
        path = (*level.path, key)
        self.lines[path] = line

    def _scalar(self, event: yaml.ScalarEvent) -> object:
        text: str = event.value
        if event.style is not None:
            return text
        try:
            return _plain_value(text)
        except ValueError as exc:
            raise self._error(event, str(exc)) from None

    def _error(self, event: yaml.Event, message: str) -> StrictYamlError:
        return StrictYamlError(self._name, *_position(event), message)


def _position(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _plain_value(text: str) -> object:
    """What an unquoted scalar means. Raises ValueError with the message where YAML would surprise."""
    if text in _NULLS:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _SPOKEN_BOOL.match(text):
        raise ValueError(
            f'unquoted {text}: YAML may read it as true or false. Write one of those, or quote it: "{text}"'
        )
    for pattern, why in _TRAPS:
        if pattern.match(text):
            raise ValueError(f'unquoted {text[:_MAX_NUMBER_CHARS]}: {why}. Quote it if it is text: "{text[:80]}"')
    return _number(text) if text[0] in "+-.0123456789" else text


def _number(text: str) -> object:
    """The number that ``text`` is, or the text itself."""
    is_int, is_hex, is_float = _INT.match(text), _HEX.match(text), _FLOAT.match(text)
    if not (is_int or is_hex or is_float):
        return text
    if len(text) > _MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} characters, the limit is {_MAX_NUMBER_CHARS}")
    if is_int or is_hex:
        return int(text, 16 if is_hex else 10)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _kind(value: object) -> str:
    names = {type(None): "empty", bool: "true or false", float: "a number", dict: "a mapping", list: "a list"}
    return names.get(type(value), type(value).__name__)
