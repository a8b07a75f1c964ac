"""A strict YAML reader that knows the line of every value.

Plain YAML turns typing slips silently into wrong values: ``no`` is false, ``010`` is eight, ``12:30`` is 750, a
repeated key wins, an alias can expand one page to gigabytes. All of these are errors here, with line and column.
Whatever is accepted means the same in YAML 1.1 and 1.2, except ``1e-3``, which is a number here (YAML 1.1 makes it
text).
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

_NO_VALUE = "this is no `key: value`; a key needs a colon, a blank and a value"
_BRACKETS = {"while parsing a flow sequence": ("[", "]"), "while parsing a flow mapping": ("{", "}")}

KeyPath = tuple["str | int", ...]


class StrictYamlError(Exception):
    """The text is not accepted; ``str()`` gives ``name:line:column: message``."""

    def __init__(self, name: str, line: int, column: int, message: str) -> None:
        super().__init__(f"{name}:{line}:{column}: {message}")
        self.name = name
        self.line = line
        self.column = column
        self.message = message


@dataclass(frozen=True, slots=True)
class StrictDocument:
    """One YAML document (dicts, lists, text, integers, floats, booleans and None) and the lines of its values."""

    name: str
    data: object
    lines: Mapping[KeyPath, int]

    def line_of(self, path: KeyPath) -> int:
        """Return the line (from 1) of the key or list item at ``path``, or of its nearest parent."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def nearest_key(key: str, valid: Iterable[str]) -> str | None:
    """Return the valid key that ``key`` was probably meant to be, or None."""
    found = difflib.get_close_matches(key, list(valid), n=1, cutoff=0.5)
    return found[0] if found else None


def load_strict(text: str, *, name: str) -> StrictDocument:
    """Read one YAML document; ``data`` of an empty one is None.

    Raises:
        StrictYamlError: malformed, or refused (see the module's docstring); ``name`` is in the message.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise StrictYamlError(name, 1, 1, f"the file has {size} bytes, but the limit is {MAX_BYTES}")
    text = text.removeprefix("\ufeff")
    builder = _Builder(name)
    event = None
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as exc:
        (line, column), fault = _fault(exc, text, last=event)
        raise StrictYamlError(name, line, column, f"not valid YAML: {fault}") from exc
    except yaml.reader.ReaderError as exc:
        before = text[: exc.position]
        line, column = before.count("\n") + 1, exc.position - (before.rfind("\n") + 1) + 1
        raise StrictYamlError(name, line, column, _forbidden(text, exc.character)) from exc
    return StrictDocument(name, builder.data, MappingProxyType(builder.lines))


def parse_options(texts: Iterable[str]) -> dict[str, object]:
    """Read ``NAME=VALUE`` texts of a command line; a value means what it means in a YAML file.

    A value is one text, number or boolean: engine options have no other types.

    Raises:
        StrictYamlError: no ``=``, a name given twice, or a value that the reader refuses; see ``message``.
    """
    found: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise StrictYamlError(name, 1, 1, f"{text!r} is not NAME=VALUE; give it like threads=1")
        if name in found:
            raise StrictYamlError(name, 1, 1, f"{name} is given twice, as {found[name]!r} and {value!r}; remove one")
        found[name] = _option_value(text, name, value)
    return found


def _option_value(text: str, name: str, value: str) -> bool | int | float | str:
    # A YAML document would silently drop a comment and join lines.
    is_quoted = value[:1] in {"'", '"'}
    if "\n" in value or (not is_quoted and re.search(r"(?:\A|\s)#", value)):
        raise StrictYamlError(name, 1, 1, f"{text!r}: quote a value with # in it, and keep it on one line")
    try:
        data = load_strict(value, name=name).data
    except StrictYamlError as exc:
        raise StrictYamlError(name, 1, exc.column, f"{text!r}: {exc.message}") from exc
    if not isinstance(data, bool | int | float | str):
        raise StrictYamlError(
            name, 1, 1, f"{text!r}: the value is {_kind(data)}, but one text, number, true or false is needed"
        )
    return data


def _forbidden(text: str, character: int) -> str:
    if character == 0 and text.count("\0") * 3 > len(text):
        return "this looks like UTF-16 text; save it as UTF-8"
    return f"the text holds U+{character:04X}, a character that YAML does not allow; remove it"


def _fault(exc: yaml.MarkedYAMLError, text: str, *, last: yaml.Event | None) -> tuple[tuple[int, int], str]:
    """Return line and column of the mistake, and what it is. The parser reports where it noticed, often lines later.

    ``last`` is the last event that it understood.
    """
    mark = exc.problem_mark or exc.context_mark
    noticed = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    began = (exc.context_mark.line + 1, exc.context_mark.column + 1) if exc.context_mark else noticed
    context, problem = exc.context or "", exc.problem or ""
    if "'\\t'" in problem:
        return noticed, "a tab where YAML wants blanks; put blanks there"
    if context == "while scanning a simple key":
        return began, _NO_VALUE
    if context == "while scanning a quoted scalar":
        return began, "the quote that opens here is not closed"
    if context in _BRACKETS:
        opening, closing = _BRACKETS[context]
        if "stream end" in problem:
            return began, f"the `{opening}` here is not closed; add `{closing}`"
        before = f"line {noticed[0]}, column {noticed[1]}"
        return began, f"the `{opening}` here lacks its `{closing}` or a comma before {before}"
    if problem.startswith("mapping values are not allowed"):
        return _extra_colon(noticed, text.splitlines())
    if "found '<" in problem and (last_slip := _slip_of(last, problem, noticed[0], text)):
        return last_slip
    if "found '<block " in problem:
        return noticed, "this line's indentation fits no line above"
    if problem in {"expected <block end>, but found '-'", "expected <block end>, but found '?'"}:
        return noticed, "list items and keys stand side by side; indent those that belong below the other"
    if problem.endswith("that cannot start any token"):
        return noticed, f"{problem.removeprefix('found ').removesuffix('any token')}a value; quote it"
    return noticed, " ".join(part for part in (context, problem) if part)


def _slip_of(last: yaml.Event | None, problem: str, line: int, text: str) -> tuple[tuple[int, int], str] | None:
    """Return the mistake in the value before the place on ``line`` that the parser reports; None if there is none."""
    if not isinstance(last, yaml.ScalarEvent):
        return None
    place = _position(last)
    if last.style in {"'", '"'} and problem.endswith("found '<scalar>'"):
        return place, f"the quote that opens here closes on line {line}, and more text follows there"
    if "found '<block " in problem and not text.splitlines()[place[0] - 1][: place[1] - 1].strip():
        return place, _NO_VALUE
    return None


def _extra_colon(noticed: tuple[int, int], lines: list[str]) -> tuple[tuple[int, int], str]:
    """Explain a second `: `: in the same line, or in the line above, which was meant to be a key of its own."""
    line, column = noticed
    if ": " in lines[line - 1][: column - 1]:
        return noticed, "a second `: ` in one line; quote the value if it is text"
    above = line - 1
    while above > 1 and (not lines[above - 1].strip() or lines[above - 1].lstrip().startswith("#")):
        above -= 1
    before = lines[above - 1]
    if above > 0 and not re.search(r":(?:\s|\Z)", before):
        return (above, len(before) - len(before.lstrip()) + 1), _NO_VALUE
    return noticed, "this line is indented deeper than the one above, which has its value already"


def _events(text: str) -> Iterator[yaml.Event]:
    """Yield the parser's events. The pure Python loader has exact marks, and its parser does not recurse."""
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
    """Builds the data from parser events, without recursion."""

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
            raise self._error(event, f"alias *{event.anchor}: aliases are not taken here; repeat the value")
        elif isinstance(event, yaml.NodeEvent):
            self._take_node(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._levels.pop()

    def _start_document(self, event: yaml.DocumentStartEvent) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._error(event, "a second document starts here (---), but this reader takes one")
        if event.tags:
            raise self._error(event, "%TAG directives are not taken here")

    def _take_node(self, event: yaml.NodeEvent) -> None:
        if event.anchor is not None:
            raise self._error(event, f"anchor &{event.anchor}: anchors are not taken here; repeat the value")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._error(event, f"tag {tag}: tags are not taken here; quote the value if it is text")
        if isinstance(event, yaml.ScalarEvent):
            self._place(event, self._scalar(event))
            return
        container: dict[object, object] | list[object] = {} if isinstance(event, yaml.MappingStartEvent) else []
        path = self._place(event, container)
        if len(self._levels) == MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        self._levels.append(_Level(container, path))

    def _place(self, event: yaml.Event, value: object) -> KeyPath:
        """Put a value in its place and store its line; return its path."""
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
            raise self._error(event, f"a key must be text, but this one is {_kind(key)}; quote it")
        is_quoted = isinstance(event, yaml.ScalarEvent) and not event.implicit[0]
        if key == "<<" and not is_quoted:
            raise self._error(event, "merge keys (<<) are not taken here; repeat the values")
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
    """Return the value of an unquoted scalar.

    Raises:
        ValueError: YAML would read it as something unexpected; the text says what.
    """
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
    """Return the number that ``text`` is, else the text."""
    is_int, is_hex, is_float = _INT.match(text), _HEX.match(text), _FLOAT.match(text)
    if not (is_int or is_hex or is_float):
        return text
    if len(text) > _MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} characters, but the limit is {_MAX_NUMBER_CHARS}")
    if is_int or is_hex:
        return int(text, 16 if is_hex else 10)
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value


def _kind(value: object) -> str:
    names = {type(None): "empty", bool: "true or false", float: "a number", dict: "a mapping", list: "a list"}
    return names.get(type(value), type(value).__name__)
