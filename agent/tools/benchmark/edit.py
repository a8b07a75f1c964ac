"""Sets engine and precision of models in the text of a configuration and keeps comments, order and spacing.

The text goes through a round trip of ruamel.yaml. Of its output only the lines that the change made different are
taken; all others stay as they were written, character for character, also where ruamel would space them otherwise.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.tokens import CommentToken

_MAX_COLUMNS = 1 << 20
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\r\n]*", re.MULTILINE)


def with_engine(text: str, models: Sequence[str], engine: str, precision: str) -> str:
    """``text`` with ``engine`` and ``precision`` of ``models`` set; a missing key is added behind ``package``.

    Raises:
        ValueError: the text is not YAML that can be edited, has no such model, or would lose a comment; says why.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    # Not splitlines(), which also splits at characters that YAML leaves inside of a line.
    lines = list(io.StringIO(text.removeprefix(mark), newline=""))
    plain = "".join(line.rstrip("\r\n") + "\n" for line in lines)

    def change(document: CommentedMap) -> None:
        for name in models:
            model = document["models"][name]
            _set(model, "engine", engine, behind="package")
            _set(model, "precision", precision, behind="engine")

    try:
        before, after = _round_trip(plain), _round_trip(plain, change)
    except YAMLError as exc:
        raise ValueError(" ".join(str(exc).split())) from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"the models are not written as a mapping with their names as keys ({exc!r})") from exc
    merged = _with_changes(lines, before, after)
    if merged is not None:
        return mark + merged
    # What changed stands on lines that the round trip has joined, as in braces over several lines: take all of it.
    line_end = _line_end(lines)
    whole = "".join(line + line_end for line in after)
    if lost := [comment for comment in _COMMENT.findall(text) if comment not in whole]:
        raise ValueError(f"the comment {lost[0]!r} would be lost")
    return mark + whole


def _round_trip(text: str, change: Callable[[CommentedMap], None] | None = None) -> list[str]:
    """The lines that ruamel writes for ``text``, after ``change``."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _MAX_COLUMNS
    document = yaml.load(text)
    if change is not None:
        change(document)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue().removesuffix("\n").split("\n")


def _set(model: CommentedMap, name: str, value: str, *, behind: str) -> None:
    if name in model:
        model[name] = value
        return
    model.insert(list(model).index(behind) + 1, name, value)
    # What stands between two keys belongs to the upper one for ruamel; a reader takes it for the lower one's.
    comments = model.ca.items.get(behind)
    token = comments[2] if comments else None
    if token is None:
        return
    same_line, line_end, below = token.value.partition("\n")
    if below:
        model.ca.items[name] = [None, None, CommentToken(line_end + below, token.start_mark, None), None]
    if not same_line:
        del model.ca.items[behind]
    else:
        token.value = same_line + line_end


def _with_changes(lines: Sequence[str], before: Sequence[str], after: Sequence[str]) -> str | None:
    """The lines of the file with those changes that lead from one round trip to the other; None if they do not fit.

    Spacing and indentation of the round trip may differ from those of the file everywhere, so its lines are matched
    with the file's by what is left without blanks. A new line is indented like the one that it replaces or follows.
    """
    places = _places_of(before, lines)
    result = list(lines)
    changes = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    # From the end, so that places before it stay right.
    for kind, start, end, new_start, new_end in reversed(changes):
        if kind == "equal":
            continue
        anchor = start if end > start else start - 1
        if any(place not in places for place in (anchor, *range(start, end))):
            return None
        first = places[anchor] if end > start else places[anchor] + 1
        shift = _indent(lines[places[anchor]]) - _indent(before[anchor])
        new = [" " * max(_indent(line) + shift, 0) + line.lstrip(" ") for line in after[new_start:new_end]]
        result[first : first + end - start] = [line + _line_end(lines) for line in new]
    # The last line of a file may have no end, which a line behind it needs.
    ends = [line if line.endswith("\n") else line + _line_end(lines) for line in result[:-1]]
    return "".join([*ends, *result[-1:]])


def _places_of(before: Sequence[str], lines: Sequence[str]) -> dict[int, int]:
    """The line of the file that each line of the round trip comes from."""
    written, original = (["".join(line.split()) for line in one] for one in (before, lines))
    found: dict[int, int] = {}
    for _, start, end, first, last in SequenceMatcher(None, written, original, autojunk=False).get_opcodes():
        if end - start == last - first:
            found |= {start + number: first + number for number in range(end - start)}
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _line_end(lines: Sequence[str]) -> str:
    return "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
