"""Label files: one name per class, in the formats in common use.

Accepted: plain lines; ``0,name``, ``0: name``, ``0 name``, ``name,0``; ``n01440764 name``; a JSON list; a JSON map
``{"0": "name"}``, ``{"0": ["n01440764", "name"]}`` or ``{"name": 0}``; a table whose header names a column for the
number and one for the name, in any order (``label,id``). A byte order mark, CRLF and blank lines at the
end are skipped. Another header line is skipped only if every other line is numbered and the header looks like
one (``index,label``).
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence

from engines.errors import ModelRejected

BACKGROUND = "background"
"""The name of class 0 of a model whose labels have offset 1."""

MAX_BYTES = 16 << 20
MAX_LABEL_CHARS = 512
MAX_LABELS = 1_000_000
_PAIR = 2
_FLAG = "agent model import: --offset"
_MAX_DIGITS = 9

_NUMBERED = re.compile(r"([0-9]{1,9})(?:\s*[,:;\t]\s*|\s+)(\S.*)\Z")
_SYNSET = re.compile(r"n[0-9]{8}(?:\s*[,:;\t]\s*|\s+)(\S.*)\Z")
_TRAILING = re.compile(r"(.*\S)\s*[,;\t]\s*([0-9]{1,9})\Z")
_HEADER = re.compile(r"(?i)(?:#|index|idx|id|no|class|class[ _]?id|label[ _]?id)\s*[,:;\t ]\s*[a-z _]+\Z")
_HEADER_WORD = re.compile(r"(?i)(?:#.*|labels?|names?|class(?:es)?|class[ _]?names?)\Z")
_NUMBER_COLUMNS = frozenset({"index", "idx", "id", "class_id", "class_index", "class_idx", "label_id", "label_index"})
_NAME_COLUMNS = frozenset({"name", "label", "class", "class_name", "label_name", "display_name"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def parse_labels(data: bytes, *, name: str, offset: int = 0) -> tuple[str, ...]:
    """Return the labels in the bytes of a label file, first class first.

    ``name`` is the file's name for messages. Numbers in the file must start at 0, or at ``offset``, without a gap.

    Raises:
        ModelRejected: the file has none of the formats above; the message names file and line.
    """
    text = _decode(data, name)
    start = text.lstrip()[:1]
    # A comma between any two in JSON, a line end elsewhere.
    if text.count("," if start in {"[", "{"} else "\n") > 2 * MAX_LABELS:
        raise ModelRejected(f"{name} has more than {MAX_LABELS} labels, which is the limit. Is it a list of labels?")
    labels = _from_json(text, name, offset) if start in {"[", "{"} else _from_lines(text, name, offset)
    for place, label in enumerate(labels):
        if not label or _CONTROL.search(label) or len(label) > MAX_LABEL_CHARS:
            what = (
                "empty" if not label else f"{label[:40]!r}: longer than {MAX_LABEL_CHARS} or with control characters"
            )
            raise ModelRejected(f"{name}: label {place} is {what}. Give every class a short name", file=name)
    return tuple(labels)


def fit_labels(labels: Sequence[str], *, classes: int, offset: int, name: str) -> tuple[str, ...]:
    """Return ``labels`` for all ``classes`` of a model; with offset 1, class 0 is ``background``.

    Raises:
        ModelRejected: the numbers disagree; the message has both and the likely reason.
    """
    if len(labels) + offset == classes:
        return (BACKGROUND,) * offset + tuple(labels)
    hint = "Give one label per class"
    if classes == 1 and len(labels) == _PAIR and not offset:
        hint = (
            "Does its score speak for one of both? Then set output.task: binary and output.positive (agent model "
            f"import: --task binary --positive {shlex.quote(labels[1])})"
        )
    elif offset == 0 and len(labels) == classes - 1:
        hint = f"Has the model a background class first? Then set labels.offset: 1 ({_FLAG} 1)"
    elif offset and len(labels) == classes:
        hint = f"The labels name every class: set labels.offset: 0 ({_FLAG} 0)"
    elif len(labels) == classes - offset + 1 and _HEADER_WORD.match(labels[0]):
        hint = f"Is the first line, {labels[0]!r}, a header? Remove it"
    elif len(labels) == classes - offset + 1 and labels[0].lower() in {BACKGROUND, "dummy", "__background__"}:
        hint = f"The first line, {labels[0]!r}, is a class that the model does not have: remove it"
    with_offset = f" with offset {offset}" if offset else ""
    raise ModelRejected(
        f"{name} has {len(labels)} labels{with_offset}, but the model has {classes} classes. {hint}",
        file=name,
        labels=len(labels),
        classes=classes,
        offset=offset,
    )


def _decode(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise ModelRejected(
            f"{name} has {len(data)} bytes, but the limit for labels is {MAX_BYTES}. Name the labels file", file=name
        )
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        raise ModelRejected(f"{name} is UTF-16 text, but labels must be UTF-8. Save it as UTF-8", file=name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ModelRejected(f"{name}:{line}: not UTF-8 text. Save the labels as UTF-8", file=name, line=line) from exc
    if not text.strip():
        raise ModelRejected(f"{name} has no labels in it ({len(data)} bytes). Write one name per line", file=name)
    return text


def _from_lines(text: str, name: str, offset: int) -> list[str]:
    lines = [line.strip() for line in text.split("\n")]
    while not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line:
            raise ModelRejected(
                f"{name}:{number}: a blank line among {len(lines)} lines of labels. Remove it or name the class",
                file=name,
                line=number,
            )
    table = _from_table(lines, name, offset)
    if table is not None:
        return table
    trailing = _numbers_behind(lines)
    if trailing is not None:
        return _by_index(trailing, name, offset)
    for pattern in (_SYNSET, _NUMBERED):
        matches = [pattern.match(line) for line in lines]
        if not any(matches):
            continue
        if pattern is _NUMBERED:
            return _numbered(lines, matches, name, offset)
        return [match.group(1) for match in _all_match(lines, matches, name, "n01440764 name")]
    return lines


def _from_table(lines: Sequence[str], name: str, offset: int) -> list[str] | None:
    """The labels of a table whose header names both columns; None if there is no such header."""
    delimiter = next((one for one in "\t;," if one in lines[0]), ",")
    rows: list[list[str]] = []
    try:
        rows += csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    except csv.Error:
        return None  # such as a carriage return inside a line: no table
    header = [re.sub(r"[ -]", "_", cell.strip().lower()) for cell in rows[0]]
    numbers = [place for place, cell in enumerate(header) if cell in _NUMBER_COLUMNS]
    names = [place for place, cell in enumerate(header) if cell in _NAME_COLUMNS]
    if len(numbers) != 1 or len(names) != 1:
        return None
    if len(header) == _PAIR and numbers == [0]:
        return None  # as ``0,name``, where commas in the name need no quotes
    pairs: list[tuple[int, str]] = []
    for line, row in enumerate(rows[1:], 2):
        number = row[numbers[0]].strip() if len(row) == len(header) else ""
        if not (number.isascii() and number.isdigit()):
            raise ModelRejected(
                f"{name}:{line}: {lines[line - 1][:60]!r} does not fit the header {lines[0][:60]!r}: "
                f"{len(header)} columns with a number under {rows[0][numbers[0]]!r} are expected. Correct the line",
                file=name,
                line=line,
            )
        pairs.append((int(number), row[names[0]].strip()))
    return _by_index(pairs, name, offset) if pairs else None


def _numbers_behind(lines: Sequence[str]) -> list[tuple[int, str]] | None:
    """The labels of lines like ``name,0``; None unless every line has a number, and they have no gap."""
    found = [_TRAILING.match(line) for line in lines]
    pairs = [(int(match.group(2)), _unquote(match.group(1).strip())) for match in found if match]
    numbers = sorted(number for number, _ in pairs)
    # A run from another number is refused later, with advice: it is no part of the names.
    is_whole = len(pairs) == len(lines) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    # "0,1" may be either way round, so the number in front counts there.
    return pairs if is_whole and not all(label.isdigit() for _, label in pairs) else None


def repeated_labels(labels: Sequence[str]) -> list[str]:
    """The labels that more than one class has, in the order of the classes."""
    counts = Counter(labels)
    return [label for label, count in counts.items() if count > 1]


def _numbered(lines: Sequence[str], matches: Sequence[re.Match[str] | None], name: str, offset: int) -> list[str]:
    """Return the labels of lines like ``0,name``; if only some lines start with a number, they stay as they are."""
    if len(lines) > 1 and matches[0] is None and all(matches[1:]) and _HEADER.match(lines[0]):
        lines, matches = lines[1:], matches[1:]
    found = [match for match in matches if match]
    separated = any(re.match(r"[0-9]+\s*[,:;\t]", match.string) for match in found)
    # Names may begin with a number ("3 point lighting"): numbers count only if most lines have a separator.
    if len(found) < len(lines) and (not separated or len(found) <= len(lines) // 2):
        return list(lines)
    found = _all_match(lines, matches, name, "0,name")
    numbers = [int(match.group(1)) for match in found]
    if not separated and not _is_run(numbers, offset):
        return list(lines)
    names = [_unquote(match.group(2)) for match in found]
    if not separated and len(set(names)) < len(names) and len(set(lines)) == len(lines):
        # Without the number two classes would have one name ("0 people", "1 people"): it is part of the name.
        return list(lines)
    return _by_index(list(zip(numbers, names, strict=True)), name, offset)


def _all_match(
    lines: Sequence[str], matches: Sequence[re.Match[str] | None], name: str, shape: str
) -> list[re.Match[str]]:
    found = [match for match in matches if match]
    if len(found) == len(lines):
        return found
    odd = next(number for number, match in enumerate(matches) if match is None)
    raise ModelRejected(
        f"{name}: {len(found)} lines are like {shape!r}, but {lines[odd][:60]!r} is not. "
        "Remove it if it is a header, or write all lines alike",
        file=name,
        line_text=lines[odd][:60],
    )


def _from_json(text: str, name: str, offset: int) -> list[str]:
    try:
        # Pairs instead of a dict, which would silently drop a repeated key.
        value = json.loads(text, object_pairs_hook=list, parse_int=_number)
    except (ValueError, RecursionError) as exc:
        line = getattr(exc, "lineno", 1)
        raise ModelRejected(f"{name}:{line}: begins like JSON but is not: {exc}", file=name, line=line) from exc
    if text.lstrip().startswith("["):
        for place, label in enumerate(value):
            if not isinstance(label, str):
                raise ModelRejected(f"{name}: item {place} of the JSON list is not text: {_shown(label)}", file=name)
        return [label.strip() for label in value]
    pairs: list[tuple[int, str]] = []
    for key, label in value:
        named = label[-1] if isinstance(label, list) and len(label) == _PAIR else label
        if key.isascii() and key.isdigit() and len(key) <= _MAX_DIGITS and isinstance(named, str):
            pairs.append((int(key), named.strip()))
        elif isinstance(label, int) and not isinstance(label, bool) and not key.isdigit():
            pairs.append((label, key.strip()))
        else:
            raise ModelRejected(
                f'{name}: {key[:60]!r}: {_shown(label)} is neither "0": "name" nor "name": 0', file=name
            )
    return _by_index(pairs, name, offset)


def _number(digits: str) -> int:
    """A whole number of a JSON file; Python itself refuses thousands of digits with an error of its own."""
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"the number {digits[:20]}... has {len(digits)} digits")
    return int(digits)


def _shown(value: object) -> str:
    """A value for messages; of a list only that it is one, because it may be nested deeply."""
    return "a list" if isinstance(value, list) else f"{value!r:.60}"


def _is_run(numbers: Sequence[int], offset: int) -> bool:
    ordered = sorted(numbers)
    return ordered in (list(range(len(ordered))), list(range(offset, offset + len(ordered))))


def _by_index(pairs: list[tuple[int, str]], name: str, offset: int) -> list[str]:
    """Return the names in the order of their numbers, which must have no gap."""
    numbers = [number for number, _ in pairs]
    if _is_run(numbers, offset):
        return [label for _, label in sorted(pairs, key=lambda pair: pair[0])]
    present = set(numbers)
    twice = next((number for number, count in Counter(numbers).items() if count > 1), None)
    if twice is not None:
        fact = f"{twice} is there twice"
    elif min(numbers) == 1 and max(numbers) == len(numbers):
        fact = f"they begin at 1. If class 0 is a background class set labels.offset: 1 ({_FLAG} 1), else count from 0"
    else:
        missing = next(number for number in range(offset, max(numbers) + 2) if number not in present)
        fact = f"{missing} is missing" if min(numbers) == 0 else f"they begin at {min(numbers)}"
    raise ModelRejected(
        f"{name}: the {len(numbers)} numbers of the labels do not run from 0 to {len(numbers) - 1}: {fact}", file=name
    )


def _unquote(label: str) -> str:
    if len(label) >= _PAIR and label[0] == label[-1] == '"':
        return label[1:-1].replace('""', '"').strip()
    return label
