"""Whatever the names are, every written shape of a label file reads back the same."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from engines.errors import ModelRejected
from engines.package.labels import parse_labels

_NAMES = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"], exclude_characters='"'), min_size=1)
    .map(str.strip)
    .filter(bool),
    min_size=1,
    max_size=20,
)


@given(names=_NAMES, ending=st.sampled_from(["\n", "\r\n"]), separator=st.sampled_from([",", ": ", "\t", ";"]))
def test_numbered_lines_read_back(names: list[str], ending: str, separator: str) -> None:
    named = [name.lstrip(",:;\t ") or "x" for name in names]
    text = ending.join(f"{index}{separator}{name}" for index, name in enumerate(named))
    assert list(parse_labels(text.encode(), name="labels")) == named


@given(names=_NAMES)
def test_json_reads_back_as_list_and_map(names: list[str]) -> None:
    assert list(parse_labels(json.dumps(names).encode(), name="labels")) == names
    pairs = {str(index): name for index, name in enumerate(names)}
    assert list(parse_labels(json.dumps(pairs).encode(), name="labels")) == names


@given(data=st.binary(max_size=300))
def test_any_bytes_give_labels_or_a_refusal(data: bytes) -> None:
    try:
        labels = parse_labels(data, name="labels")
    except ModelRejected as exc:
        assert "labels" in exc.message
    else:
        assert all(labels)
