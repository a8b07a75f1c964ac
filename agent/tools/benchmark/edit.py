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

_INDENTS = ((2, 0), (4, 2), (4, 0), (6, 4))
"""Column of a list's items and of their dashes, relative to the key above: the usual styles."""
_MAX_COLUMNS = 1 << 20
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\r\n]*", re.MULTILINE)


def with_engine(text: str, models: Sequence[str], engine: str, precision: str) -> str:
    """``text`` with ``engine`` and ``precision`` of ``models`` set; a key that is missing is added behind ``package``.

    Raises:
        ValueError: the text is no YAML that can be edited, or has no such model; says why.
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
        indent = min(_INDENTS, key=lambda one: _differing_lines(_round_trip(plain, one), plain))
        before, after = _round_trip(plain, indent), _round_trip(plain, indent, change)
    except YAMLError as exc:
        raise ValueError(str(exc).replace("\n", " ")) from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"the models are not written as a mapping with their names as keys ({exc!r})") from exc
    result = mark + _with_changes(lines, _lines(before), _lines(after))
    if lost := [one for one in _COMMENT.findall(text) if one not in result]:
        # Of a mapping in braces over several lines the round trip keeps the values alone.
        raise ValueError(f"the comment {lost[0]!r} would be lost")
    return result


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n")


def _round_trip(text: str, indent: tuple[int, int], change: Callable[[CommentedMap], None] | None = None) -> str:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = _MAX_COLUMNS
    yaml.indent(sequence=indent[0], offset=indent[1])
    document = yaml.load(text)
    if change is not None:
        change(document)
    written = io.StringIO()
    yaml.dump(document, written)
    return written.getvalue()


def _differing_lines(written: str, text: str) -> int:
    one, other = _lines(written), _lines(text)
    return abs(len(one) - len(other)) + sum(a != b for a, b in zip(one, other, strict=False))


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


def _with_changes(lines: Sequence[str], before: Sequence[str], after: Sequence[str]) -> str:
    """The lines of the file, with those that differ between two round trips taken from the second."""
    line_end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if len(before) != len(lines):
        # The round trip joins or splits lines, such as a mapping in braces over several: take it as a whole.
        return "".join(line + line_end for line in after)
    result: list[str] = []
    for kind, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            result += lines[start:end]
        else:
            result += [line + line_end for line in after[new_start:new_end]]
    # The last line of a file may have no end, which a line behind it needs.
    return "".join(line if line.endswith("\n") or last else line + line_end for line, last in _with_last(result))


def _with_last(lines: Sequence[str]) -> list[tuple[str, bool]]:
    return [(line, place == len(lines) - 1) for place, line in enumerate(lines)]
