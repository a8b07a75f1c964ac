"""What the configuration allows at one place of the file, in words for people who edit it."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from agent.config.sections.base import PATTERNS_IN_WORDS

KeyPath = tuple["str | int", ...]


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the file: its path, and its type in the model.

    ``annotation`` is the type without its ``Annotated``, and ``metadata`` what that held. ``discriminator`` is the key
    that chooses between several sections; None without a choice.
    """

    path: KeyPath
    annotation: object
    metadata: tuple[object, ...] = ()
    discriminator: str | None = None

    def child(self, key: str | int) -> Place | None:
        """The place below ``key``; None if the model has no such key."""
        annotation = self.section()
        if _is_model(annotation):
            field = annotation.model_fields.get(str(key))
            return None if field is None else _place_of_field((*self.path, key), field)
        arguments = get_args(annotation)
        if get_origin(annotation) is dict:
            return _bare(Place((*self.path, key), arguments[1]))
        if get_origin(annotation) is tuple and isinstance(key, int):
            item = arguments[0] if arguments[-1] is Ellipsis or key >= len(arguments) else arguments[key]
            return _bare(Place((*self.path, key), item))
        return None

    def key(self, name: str | int) -> Place | None:
        """The key ``name`` itself; None if this is no mapping with typed keys."""
        annotation = self.section()
        if get_origin(annotation) is not dict:
            return None
        return _bare(Place((*self.path, name), get_args(annotation)[0]))

    def is_mapping(self) -> bool:
        """Whether the user chooses its keys."""
        return get_origin(self.section()) is dict

    def entry(self) -> Place | None:
        """An entry of a mapping or list; None if it is neither."""
        if self.is_mapping():
            return self.child("")
        return self.child(0) if get_origin(self.section()) is tuple else None

    def section(self, tag: str | None = None) -> object:
        """The type; of an optional type the other member; of several sections the one with ``tag``."""
        members = [member for member in _members(self.annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
        if self.discriminator is not None and tag is not None:
            for member in members:
                if tag in tags_of(member, self.discriminator):
                    return member
        return self.annotation

    def list_member(self, label: str = "tuple[") -> Place | None:
        """The list among several types, such as text or a list of texts; None without one, or if ``label``, the
        type's name in a validation error, is not the list's."""
        for member in _members(self.annotation):
            if get_origin(member) is tuple and self.section() is self.annotation and label.startswith("tuple["):
                return Place(self.path, member)
        return None

    def keys(self) -> list[str]:
        """The keys of a section; empty if the user chooses the keys."""
        section = self.section()
        if _is_model(section):
            return list(section.model_fields)
        return []

    def choices(self) -> list[object]:
        """The values of a closed set, also within a union; empty without one."""
        found: list[object] = []
        for member in _members(self.annotation):
            if get_origin(member) is Literal:
                found += get_args(member)
        return found

    def tags(self) -> list[str]:
        """The values of the discriminator."""
        if self.discriminator is None:
            return []
        return [tag for member in _members(self.annotation) for tag in tags_of(member, self.discriminator)]

    def allowed(self) -> str:
        """The allowed values in words, such as ``a number, above 0 and at most 1000, or null``."""
        words = [_words(member, self.metadata) for member in _members(self.annotation)]
        *first, last = dict.fromkeys(words)
        return f"{', '.join(first)} or {last}" if first else last


def sections_of(place: Place) -> list[tuple[str, type[BaseModel]]]:
    """The sections allowed at ``place``, each with its tag; empty if it is no section."""
    found: list[tuple[str, type[BaseModel]]] = []
    for member in _members(place.annotation):
        if _is_model(member):
            tags = tags_of(member, place.discriminator) if place.discriminator else []
            found.append((tags[0] if tags else "", member))
    return found


def tags_of(section: object, discriminator: str) -> list[str]:
    """The values of ``discriminator`` that choose this section."""
    if not (_is_model(section)):
        return []
    field = section.model_fields.get(discriminator)
    return [] if field is None else [str(value) for value in get_args(field.annotation)]


def place_of(root: type[BaseModel], loc: Sequence[str | int]) -> tuple[Place, tuple[str | int, ...]]:
    """Follow the location of a validation error through the model.

    Returns the place, and the rest of ``loc`` that is not in the model: an unknown key, ``[key]``, or the tried member
    of a union. For ``[key]`` the place is that of the key.
    """
    place, rest = Place((), root), tuple(loc)
    while rest:
        tag = str(rest[0]) if rest[0] in place.tags() else None
        if tag is not None:
            place, rest = Place(place.path, place.section(tag), place.metadata), rest[1:]
            continue
        if rest[1:] == ("[key]",) and (key := place.key(rest[0])) is not None:
            return key, rest[1:]
        below = place.child(rest[0])
        if below is None and rest[1:] and (items := place.list_member(str(rest[0]))) is not None:
            place, rest = items, rest[1:]
            continue
        if below is None:
            break
        place, rest = below, rest[1:]
    return place, rest


def _place_of_field(path: KeyPath, field: FieldInfo) -> Place:
    discriminator = field.discriminator if isinstance(field.discriminator, str) else None
    return _bare(Place(path, field.annotation, tuple(field.metadata), discriminator))


def _bare(place: Place) -> Place:
    """The same place with its ``Annotated`` split into type and metadata."""
    if get_origin(place.annotation) is not Annotated:
        return place
    annotation, *metadata = get_args(place.annotation)
    return _bare(Place(place.path, annotation, (*place.metadata, *metadata), place.discriminator))


def _is_model(annotation: object) -> TypeGuard[type[BaseModel]]:
    # In Python 3.10 `tuple[str, ...]` is an instance of type, and issubclass raises on it.
    return get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _members(annotation: object) -> Iterator[object]:
    if get_origin(annotation) in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _words(annotation: object, metadata: tuple[object, ...]) -> str:
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        metadata = (*metadata, *more)
    if get_origin(annotation) is Literal:
        values = [_literal(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if _is_model(annotation):
        return f"a section with the keys {', '.join(annotation.model_fields)}"
    if get_origin(annotation) is dict:
        return "a section with one entry or more" if dict(_bounds(metadata)).get("min_length") else "a section"
    if get_origin(annotation) is tuple:
        arguments = get_args(annotation)
        if arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)} values"
        return "a list of at least one entry" if dict(_bounds(metadata)).get("min_length") else "a list"
    return _words_of_scalar(annotation, dict(_bounds(metadata)))


def _literal(value: object) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _bounds(metadata: Sequence[object]) -> Iterator[tuple[str, object]]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(item.metadata)
            continue
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            value = getattr(item, name, None)
            if value is not None:
                yield name, value


def _words_of_scalar(annotation: object, bounds: Mapping[str, object]) -> str:
    if annotation is type(None):
        return "null"
    if annotation is bool:
        return "true or false"
    if annotation is int or annotation is float:
        kind = "a whole number" if annotation is int else "a number"
        return ", ".join(part for part in (kind, _words_of_range(bounds)) if part)
    if annotation is AwareDatetime:
        return "a time with its zone such as 2026-12-01T10:00:00Z, or seconds since 1970"
    pattern = bounds.get("pattern")
    if isinstance(pattern, str):
        return PATTERNS_IN_WORDS.get(pattern, f"text that matches {pattern}")
    max_chars = bounds.get("max_length")
    text = "text that is not empty" if bounds.get("min_length") else "text"
    return text if max_chars is None else f"{text} (at most {max_chars} characters)"


def _words_of_range(bounds: Mapping[str, object]) -> str:
    if "ge" in bounds and "le" in bounds:
        return f"{_number(bounds['ge'])} to {_number(bounds['le'])}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{word} {_number(bounds[name])}" for name, word in words.items() if name in bounds)


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
