"""The reference of every key, for docs/configuration.md: ``python -m agent.config.reference`` prints it."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from agent.config.model import AgentConfig
from agent.config.sections.field_docs import field_docs
from agent.config.shape import Place, sections_of


def reference_markdown() -> str:
    """One table per section, in the order of the file."""
    return "\n".join(_tables("", Place((), AgentConfig))).strip() + "\n"


def _tables(name: str, place: Place) -> Iterator[str]:
    if place.discriminator is not None:
        yield f"### {_heading(name)}\n\n`{place.discriminator}` chooses one of: {', '.join(place.tags())}.\n"
    for tag, section in sections_of(place):
        yield f"#### type: {tag}\n" if place.discriminator is not None else f"### {_heading(name)}\n"
        yield f"{_one_line(section.__doc__)}\n"
        yield "| key | value | default | meaning |"
        yield "| --- | --- | --- | --- |"
        below: list[tuple[str, Place]] = []
        for key, field in section.model_fields.items():
            child = Place((), section).child(key)
            if child is None:
                continue
            nested = _nested(f"{name}.{key}" if name else key, child)
            below += nested
            is_kind = key == place.discriminator
            allowed = f"see [below](#{_anchor(nested[0][0])})" if nested else child.allowed()
            default = "" if field.is_required() else f"`{_default(field.get_default(call_default_factory=True))}`"
            meaning = (
                field.description or field_docs(section).get(key) or ("This kind." if is_kind else _summary(nested))
            )
            yield f"| `{key}` | {allowed} | {default} | {_one_line(meaning)} |".replace("|  |", "| |")
        yield ""
        for path, child in below:
            yield from _tables(path, child)


def _heading(name: str) -> str:
    return f"`{name}`" if name else "The file"


def _anchor(heading: str) -> str:
    return "".join(char for char in heading.lower() if char.isalnum() or char in "_-")


def _nested(path: str, place: Place) -> list[tuple[str, Place]]:
    """The sections below one key: itself, or the entries of a mapping or list."""
    if sections_of(place):
        return [(path, place)]
    entry = place.entry()
    return [(f"{path}.<name>" if place.is_mapping() else f"{path}[]", entry)] if entry and sections_of(entry) else []


def _summary(nested: list[tuple[str, Place]]) -> str:
    sections = sections_of(nested[0][1]) if nested else []
    return _one_line(inspect.cleandoc(sections[0][1].__doc__ or "").split("\n\n")[0]) if len(sections) == 1 else ""


def _one_line(text: str | None) -> str:
    """A row of a table ends with its line."""
    return " ".join((text or "").split())


def _default(value: object) -> str:
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, str) and value:
        return value
    return json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(reference_markdown())
