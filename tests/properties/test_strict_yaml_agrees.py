"""Any text is read or refused by position, and what is read is what PyYAML's own safe loader reads."""

from __future__ import annotations

import re
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from engines.package.strict_yaml import StrictYamlError, load_strict

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6),
    st.text(max_size=20),
)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_EXPONENT_WITHOUT_POINT = re.compile(r"[0-9][eE]|\.[0-9]*[eE][0-9]")


@given(data=_DOCUMENTS)
def test_what_pyyaml_dumps_is_read_as_it_does_itself(data: Any) -> None:
    text = yaml.safe_dump(data, allow_unicode=True)
    try:
        read = load_strict(text, name="n").data
    except StrictYamlError as exc:
        assert exc.line >= 1
    else:
        if not _EXPONENT_WITHOUT_POINT.search(text):
            assert read == yaml.safe_load(text)


@given(text=st.text(st.sampled_from("ab01.:-_ \n[]{},#'\"&*!?|>%yesnof~e+x"), max_size=60))
def test_any_text_is_read_as_pyyaml_does_or_refused_by_position(text: str) -> None:
    try:
        read = load_strict(text, name="n")
    except StrictYamlError as exc:
        assert str(exc).startswith(f"n:{exc.line}:{exc.column}: ")
        assert exc.line >= 1
    else:
        if not _EXPONENT_WITHOUT_POINT.search(text):
            assert read.data == yaml.safe_load(text)
        assert all(1 <= line <= text.count("\n") + 1 for line in read.lines.values())
