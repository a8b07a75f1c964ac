"""A short run of each fuzzing target, always with the same input; `scripts/fuzz` runs them for longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.fuzzing.__main__ import Finding, fuzz
from scripts.fuzzing.targets import TARGETS, Target

_EXAMPLES = 100


@pytest.mark.parametrize("name", list(TARGETS))
def test_damaged_input_is_refused_or_accepted_and_nothing_else_happens(name: str, tmp_path: Path) -> None:
    assert fuzz(name, 20, _EXAMPLES, newest=tmp_path / "newest") >= _EXAMPLES


def _fails_on_escape(data: bytes) -> None:
    if b"\x1b" in data:
        raise KeyError("escape")


def _is_slow(data: bytes) -> None:
    del data


@pytest.mark.parametrize(
    ("check", "max_s", "words"), [(_fails_on_escape, 5.0, "KeyError: 'escape'"), (_is_slow, -1.0, "it took 0.0 s")]
)
def test_a_reader_that_misbehaves_is_found_with_its_input(
    check: Callable[[bytes], None], max_s: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Target((b"good input",), check, max_s)
    monkeypatch.setitem(TARGETS, "planted", lambda: planted)
    with pytest.raises(Finding, match=words) as caught:
        fuzz("planted", 1, 2000)
    assert max_s < 0 or b"\x1b" in caught.value.data
