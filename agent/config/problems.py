"""The faults of a configuration file: one line each, with its place and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.config.model import AgentConfig
from agent.config.sections.base import PlacedError
from agent.config.shape import KeyPath, Place, place_of
from agent.runtime.errors import ConfigError
from agent.runtime.secrets import redact
from engines import StrictDocument, nearest_key

_SHOWN_CHARS = 60
_SECRET_WORDS = ("password", "secret", "token", "passwd", "credential")


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: line (from 1), key, what is wrong and what to do."""

    line: int
    key: str
    message: str

    def text(self, name: str) -> str:
        """``file:line: key: message``."""
        return f"{name}:{self.line}: {self.key}: {self.message}" if self.key else f"{name}:{self.line}: {self.message}"


def dotted(path: KeyPath) -> str:
    """``cameras.front.classify[0].model``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return redact(text)


def error_of(problems: Sequence[Problem], name: str) -> ConfigError:
    """All faults of one file as one error, in the order of the file."""
    ordered = sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.key))
    lines = [problem.text(name) for problem in ordered]
    message = lines[0] if len(lines) == 1 else "\n  ".join([f"{name} has {len(lines)} faults:", *lines])
    return ConfigError(message, file=name, problems=lines)


def at(document: StrictDocument, path: KeyPath, message: str) -> Problem:
    """A fault at the line of ``path``, or of its nearest existing parent."""
    return Problem(document.line_of(path), dotted(path), message)


def suggestion(given: object, valid: Sequence[str]) -> str:
    """``; did you mean x?`` or nothing."""
    found = nearest_key(given, valid) if isinstance(given, str) else None
    return "" if found is None else f"; did you mean `{found}`?"


def shown(value: object, path: KeyPath) -> str:
    """A value of a closed set as in the file, short. Free text is not repeated: it may hold a secret."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section" if value else "an empty section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if any(word in str(key).lower() for key in path for word in _SECRET_WORDS):
        return "this value"
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    text = redact(value)
    return f"`{text[:_SHOWN_CHARS]}...`" if len(text) > _SHOWN_CHARS else f"`{text}`"


def problems_of_values(document: StrictDocument) -> Iterator[Problem]:
    """Keys that are numbers, and text with control characters, anywhere in the file."""
    yield from _unusable(document, (), document.data)


def _unusable(document: StrictDocument, path: KeyPath, value: object) -> Iterator[Problem]:
    if isinstance(value, dict):
        for key, below in value.items():
            if isinstance(key, str):
                yield from _unusable_text(document, (*path, key), key)
            else:
                yield at(document, (*path, key), f'the key {key} is a number; quote it: "{key}"')
            yield from _unusable(document, (*path, key), below)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _unusable(document, (*path, index), below)
    elif isinstance(value, str):
        yield from _unusable_text(document, path, value)


def _unusable_text(document: StrictDocument, path: KeyPath, text: str) -> Iterator[Problem]:
    for char in text:
        if ord(char) < ord(" ") or ord(char) == 0x7F or 0xD800 <= ord(char) <= 0xDFFF:
            line = document.line_of(path)
            key = dotted(path).encode("ascii", "backslashreplace").decode("ascii")
            safe = "".join(c if c.isprintable() else "?" for c in key)
            yield Problem(line, safe, f"the text holds the control character U+{ord(char):04X}; remove it")
            return


def problems_of_validation(error: ValidationError, document: StrictDocument) -> Iterator[Problem]:
    """Validation errors in words of the file; errors of all members of a union become one."""
    return (at(document, path, text) for path, text in faults_of_validation(error, AgentConfig, document.data))


def faults_of_validation(error: ValidationError, root: type[BaseModel], data: object) -> Iterator[tuple[KeyPath, str]]:
    """Path and text of each fault that pydantic found in ``data``, which should be a ``root``."""
    details = error.errors(include_url=False)
    misspelt = {_meant(detail, root) for detail in details}
    for detail in details:
        place, rest = place_of(root, detail["loc"])
        if detail["type"] == "missing" and (*place.path, *rest) in misspelt:
            continue  # its misspelling is reported already
        raw = _raw(data, place.path)
        if (
            isinstance(raw, list)
            and rest
            and place.list_member() is not None
            and place.list_member(str(rest[0])) is None
        ):
            continue  # it is no text, but a list is allowed too, whose items have their own errors
        if detail["type"] == "too_short" and isinstance(raw, list | dict) and raw:
            continue  # its items are at fault and have their own errors
        if detail["type"] == "missing" and place.path and isinstance(place.path[-1], int):
            yield _short_list(place, root, data)
        else:
            yield _fault(detail, place, rest, raw)


def _meant(detail: ErrorDetails, root: type[BaseModel]) -> KeyPath | None:
    """The path that an unknown key was probably meant to have."""
    if detail["type"] != "extra_forbidden":
        return None
    place, rest = place_of(root, detail["loc"])
    found = nearest_key(str(rest[0]), place.keys())
    return None if found is None else (*place.path, found)


def _fault(detail: ErrorDetails, place: Place, rest: tuple[str | int, ...], raw: object) -> tuple[KeyPath, str]:
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(place, rest)
    if kind == "missing":
        return (*place.path, *rest), "is missing; add it" if rest else f"is missing; give {_for_display(place)}"
    if rest == ("[key]",):
        return place.path, f"this name is not allowed; it must be {place.allowed()}"
    if kind == "union_tag_invalid":
        return _wrong_tag(place, raw)
    if kind == "union_tag_not_found":
        key = place.discriminator or "type"
        return (*place.path, key), f"is missing; give one of {', '.join(place.tags())}"
    if kind == "value_error":
        return _disagreement(detail, place, raw)
    return place.path, _wrong_value(place, raw)


def _unknown_key(place: Place, rest: tuple[str | int, ...]) -> tuple[KeyPath, str]:
    key, valid = rest[0], place.keys()
    found = nearest_key(str(key), valid)
    if found is None:
        advice = f"allowed here: {', '.join(valid)}"
    else:
        advice = f"did you mean `{found}`? Allowed here: {', '.join(valid)}"
    return (*place.path, key), f"unknown key; {advice}"


def _short_list(place: Place, root: type[BaseModel], data: object) -> tuple[KeyPath, str]:
    """A list of fixed length has too few values; ``place`` is one of those that are missing."""
    path = place.path[:-1]
    found = _raw(data, path)
    parent, _ = place_of(root, path)
    count = len(found) if isinstance(found, list) else 0
    return path, f"has {count} values; give {parent.allowed()}"


def _wrong_tag(place: Place, raw: object) -> tuple[KeyPath, str]:
    key = place.discriminator or "type"
    path = (*place.path, key)
    given = raw.get(key) if isinstance(raw, Mapping) else None
    tags = place.tags()
    advice = f"give one of {', '.join(tags)}{suggestion(given, tags)}"
    return path, f"{shown(given, path)} is not allowed; {advice}"


def _disagreement(detail: ErrorDetails, place: Place, raw: object) -> tuple[KeyPath, str]:
    """Two keys of one section disagree. The place is that of the value that the error names, else of the first key in
    its message."""
    error = detail.get("ctx", {}).get("error", detail["msg"])
    text = redact(str(error))
    path = place.path
    if isinstance(error, PlacedError):
        path = (*path, *error.below)
    elif isinstance(raw, Mapping):
        named = [word for word in text.replace(",", " ").replace(":", " ").split() if word in raw]
        path = (*path, named[0]) if named else path
    return path, text


def _wrong_value(place: Place, raw: object) -> str:
    choices = [choice for choice in place.choices() if isinstance(choice, str)]
    hint = suggestion(raw, choices)
    if isinstance(raw, str) and not hint:
        hint = _unquoted(raw, place)
    is_free_text = isinstance(raw, str) and not choices
    given = "this text" if is_free_text else shown(raw, place.path)
    found = "is empty" if raw is None else f"{given} is not allowed"
    return f"{found}; give {_for_display(place)}{hint}"


def _for_display(place: Place) -> str:
    if place.tags():
        return f"a section with `{place.discriminator}:`, one of {', '.join(place.tags())}"
    return place.allowed()


def _unquoted(raw: str, place: Place) -> str:
    """The remedy for a quoted number or truth value, which is text."""
    wanted = place.allowed()
    is_number = raw.strip().lstrip("+-").replace(".", "", 1).isdigit()
    if (is_number and "number" in wanted) or (raw in {"true", "false"} and "true or false" in wanted):
        return f"; write it without quotes: {raw}"
    return ""


def _raw(data: object, path: KeyPath) -> object:
    """The value at ``path`` of the file; None if there is none."""
    for key in path:
        if isinstance(data, dict):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return None
    return data


def problems_of_conversion(document: StrictDocument, dumped: object) -> Iterator[Problem]:
    """Values that validation converted: ``true`` or ``1.0`` for a whole number of a closed set."""
    yield from _converted(document, (), document.data, dumped)


def _converted(document: StrictDocument, path: KeyPath, raw: object, dumped: object) -> Iterator[Problem]:
    if isinstance(raw, dict) and isinstance(dumped, dict):
        for key in raw.keys() & dumped.keys():
            yield from _converted(document, (*path, key), raw[key], dumped[key])
    elif isinstance(raw, list) and isinstance(dumped, list):
        for index, (below, out) in enumerate(zip(raw, dumped, strict=False)):
            yield from _converted(document, (*path, index), below, out)
    elif isinstance(raw, bool) != isinstance(dumped, bool) or (isinstance(raw, float) and isinstance(dumped, int)):
        place, _ = place_of(AgentConfig, _with_tags(document.data, path))
        yield at(document, place.path, _wrong_value(place, raw))


def _with_tags(data: object, path: KeyPath) -> tuple[str | int, ...]:
    """``path`` as in a validation error: with the tag that the discriminator chose."""
    loc: list[str | int] = []
    for position, key in enumerate(path):
        place, _ = place_of(AgentConfig, loc)
        section = _raw(data, path[:position])
        if place.discriminator is not None and isinstance(section, Mapping):
            loc.append(str(section.get(place.discriminator)))
        loc.append(key)
    return tuple(loc)
