"""Reads the part of the Dockerfile language that scripts/container/Dockerfile uses.

Source: Dockerfile reference, https://docs.docker.com/reference/dockerfile/.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

KNOWN = frozenset(
    {
        *("ARG", "FROM", "LABEL", "RUN", "COPY", "ENV", "VOLUME", "WORKDIR", "USER"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class DockerfileError(Exception):
    """The file has an instruction that is not supported here; the text names it."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its keyword and what follows, lines joined."""

    keyword: str
    text: str


def instructions(text: str) -> Iterator[Instruction]:
    """Every instruction in order.

    Raises:
        DockerfileError: a keyword that is not supported here.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for whole in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not whole.strip():
            continue
        keyword, _, rest = whole.strip().partition(" ")
        if keyword.upper() not in KNOWN:
            raise DockerfileError(f"{keyword} is not supported: {whole[:80]}")
        yield Instruction(keyword.upper(), rest.strip())


@dataclass(slots=True)
class Image:
    """The result of all instructions. ``steps`` are RUN and COPY, each with the variables set before it."""

    base: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    volumes: list[str] = field(default_factory=list)
    steps: list[tuple[Instruction, dict[str, str]]] = field(default_factory=list)
    user: str = "0"
    folder: str = "/"
    stop_signal: str = "SIGTERM"
    health: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def read_image(text: str) -> Image:
    """Read a Dockerfile of one stage.

    Raises:
        DockerfileError: something that is not supported here, such as a command that is no JSON list.
    """
    image = Image()
    for one in instructions(text):
        _take(image, one)
    return image


def _take(image: Image, one: Instruction) -> None:
    if one.keyword in ("RUN", "COPY"):
        image.steps.append((one, {**image.arguments, **image.variables}))
    elif one.keyword in ("ARG", "ENV", "LABEL"):
        pairs = {"ARG": image.arguments, "ENV": image.variables, "LABEL": image.labels}[one.keyword]
        pairs.update(part.partition("=")[::2] for part in shlex.split(one.text))
    elif one.keyword == "FROM":
        image.base = _VARIABLE.sub(lambda match: image.arguments[match[1]], one.text)
    elif one.keyword == "VOLUME":
        image.volumes += _list(one)
    elif one.keyword == "HEALTHCHECK":
        image.health = _list(Instruction("HEALTHCHECK", one.text.partition("CMD")[2].strip()))
    else:
        _take_process(image, one)


def _take_process(image: Image, one: Instruction) -> None:
    if one.keyword == "USER":
        image.user = one.text
    elif one.keyword == "WORKDIR":
        image.folder = one.text
    elif one.keyword == "STOPSIGNAL":
        image.stop_signal = one.text
    elif one.keyword == "ENTRYPOINT":
        image.entrypoint = _list(one)
    else:
        image.command = _list(one)


def _list(one: Instruction) -> list[str]:
    try:
        value = json.loads(one.text)
    except ValueError as exc:
        raise DockerfileError(f"{one.keyword} is no JSON list, so a shell would run it: {one.text}") from exc
    return [str(part) for part in value]


def is_ignored(path: str, ignore: Sequence[str]) -> bool:
    """Whether a .dockerignore excludes ``path`` from the build context: the last matching line decides."""
    ignored = False
    for line in ignore:
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = Path(path).parts
        if any(_fits("/".join(parts[: count + 1]), pattern) for count in range(len(parts))):
            ignored = not line.strip().startswith("!")
    return ignored


def _fits(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(path.rpartition("/")[2], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)
