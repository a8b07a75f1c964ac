"""The writer of the measured tables and its verdicts, on planted figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.performance.command import main
from scripts.performance.loadgen_agreement import agreement_of
from scripts.performance.page import Origin, bar_lines, head, marks, table, write_block
from scripts.performance.parts import PARTS
from scripts.performance.verdict import Agreement, Bar, Load, LoadWatch, Row, verdict_of

_ROOT = Path(__file__).parents[2]
_QUIET, _BUSY = Load(0.01), Load(0.43)


def _row(*bars: Bar, load: Load | None = None) -> Row:
    return Row("Q2 infer", "905.0", "session.run 859.0", "floor + 50", bars, load)


@pytest.mark.parametrize(
    ("bar", "told"),
    [
        (Bar(measured=905.0, limit=909.0, unit="µs"), "holds"),
        (Bar(measured=909.0, limit=909.0, unit="µs"), "holds"),
        (Bar(measured=920.4, limit=909.0, unit="µs"), "missed: 920 against 909 µs"),
        (Bar(measured=90.0, limit=85.0, unit="µs", floor=80.0), "missed: 90 against 85 µs"),
        (Bar(measured=90.0, limit=85.0, unit="µs", floor=88.0), "missed: 90 against 85 µs; the floor alone takes 88"),
        (Bar(measured=84.0, limit=85.0, unit="µs", floor=88.0), "holds"),
        (Bar(measured=84.0, limit=85.0, unit="µs", pace=1.5), "holds"),
        (
            Bar(measured=110.0, limit=85.0, unit="µs", floor=108.0, pace=1.44),
            "holds at this processor's pace: 110 of 122 µs, 1.44 times 85",
        ),
        (
            Bar(measured=130.0, limit=85.0, unit="µs", floor=80.0, pace=1.44),
            "missed: 130 against 85 µs, at this processor's pace 122",
        ),
        (Bar(measured=90.0, limit=85.0, unit="µs", pace=0.5), "missed: 90 against 85 µs"),
        (Bar(measured=0.98, limit=0.97, unit="of it", is_minimum=True), "holds"),
        (Bar(measured=0.91, limit=0.97, unit="of it", is_minimum=True), "missed: 0.91 against 0.97 of it"),
        (Bar(measured=1.0, limit=2.0, unit="ms", runs=661, needed_runs=662), "not to be judged: 661 of 662 runs"),
        (Bar(measured=float("nan"), limit=2.0, unit="ms"), "not to be judged: nothing was measured"),
    ],
)
def test_verdict_is_computed_from_the_planted_figure(bar: Bar, told: str) -> None:
    assert verdict_of(_row(bar), _QUIET) == told


@pytest.mark.parametrize("measured", [1.0, 3.0])
def test_busy_machine_is_not_judged_whatever_the_figure(measured: float) -> None:
    bar = Bar(measured=measured, limit=2.0, unit="ms")
    assert verdict_of(_row(bar), _BUSY) == "not to be judged: other programs took 43% of the processor"
    stolen = Load(0.0, 0.2)
    assert verdict_of(_row(bar), stolen) == "not to be judged: the hypervisor gave 20% of the processor to others"


def test_row_has_the_load_of_its_own_stretch() -> None:
    bar = Bar(measured=1.0, limit=2.0, unit="ms")
    assert verdict_of(_row(bar, load=_QUIET), _BUSY) == "holds"
    assert verdict_of(_row(bar, load=_BUSY), _QUIET).startswith("not to be judged")


def test_one_missed_bar_of_several_speaks_for_the_row() -> None:
    kept, missed = Bar(measured=1, limit=2, unit="ms"), Bar(measured=3, limit=2, unit="ms")
    assert verdict_of(_row(kept, missed), _QUIET) == "missed: 3 against 2 ms"
    slow = Bar(measured=3, limit=2, unit="ms", pace=2.0)
    assert verdict_of(_row(kept, slow), _QUIET).startswith("holds at this processor's pace")
    assert verdict_of(_row(slow, missed), _QUIET) == "missed: 3 against 2 ms"
    assert verdict_of(_row(), _QUIET) == "–"


@pytest.mark.parametrize(
    ("agreement", "told"),
    [
        (Agreement(value=1.0, low=0.98, high=1.02), "holds"),
        (Agreement(value=1.1, low=1.05, high=1.15), "missed: 1.100 against 1 ± 0.03"),
        (Agreement(value=1.0, low=0.9, high=1.02), "not to be judged: the interval 0.900 to 1.020 is wider"),
    ],
)
def test_agreement_needs_an_interval_inside_the_bar(agreement: Agreement, told: str) -> None:
    assert agreement.verdict(_QUIET).startswith(told)
    assert agreement.verdict(_BUSY).startswith("not to be judged: other programs")


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_planted_difference_of_two_harnesses_is_found(factor: float) -> None:
    turns = [1.0, 1.01, 0.99, 1.02, 0.98, 1.0]
    found = agreement_of([({"p50": factor * one}, {"p50": one}) for one in turns], "p50")
    assert found.value == pytest.approx(factor)
    assert found.verdict(_QUIET) == ("holds" if factor == 1.0 else "missed: 1.100 against 1 ± 0.03")


def test_unknown_part_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "rows,engine"])
    assert ended.value.code == 2
    assert "there is no part engine; there are rows, engines, path, loadgen" in capsys.readouterr().err


def _origin(load: Load, *, is_quick: bool = False) -> Origin:
    return Origin(
        command="scripts/measure --only rows",
        machine="a CPU, 2 cores, 8.0 GiB",
        versions="agent 0.1.0",
        began="2026-01-01 00:00 UTC",
        wall_s=61.4,
        load=load,
        is_quick=is_quick,
    )


def test_head_says_where_the_figures_are_from_and_when_they_are_not_valid() -> None:
    quiet = "\n".join(head(_origin(_QUIET)))
    for fact in ("`scripts/measure --only rows`", "a CPU, 2 cores", "agent 0.1.0", "2026-01-01", "61 s", "1.0%"):
        assert fact in quiet
    assert "Not valid" not in quiet
    assert "Not valid, do not use:** other programs took 43%" in "\n".join(head(_origin(_BUSY)))
    assert "a quick run" in "\n".join(head(_origin(_QUIET, is_quick=True)))


def test_block_replaces_its_own_place_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = marks("rows")
    other = "".join(marks("path"))
    page.write_text(f"before\n{begin}old\n{end}between\n{other}after\n", encoding="utf-8")
    for words in ("first", "second"):
        write_block(page, "rows", [words, ""])
    assert page.read_text(encoding="utf-8") == f"before\n{begin}\nsecond\n\n{end}between\n{other}after\n"


def test_page_without_the_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no place for rows: the lines <!-- rows"):
        write_block(page, "rows", ["new"])
    assert page.read_text(encoding="utf-8") == "no place\n"


def test_tables_are_whole_also_with_bars_in_cells() -> None:
    lines = table(("what", "value"), [("a | b", "1")])
    assert lines == ["| what | value |", "| :-- | --: |", "| a \\| b | 1 |", ""]
    told = bar_lines([_row(Bar(measured=1, limit=2, unit="µs"))], _QUIET)
    assert told[2] == "| Q2 infer | 905.0 | session.run 859.0 | floor + 50 | holds |"


def test_load_of_a_stretch_is_a_share() -> None:
    load = LoadWatch().load()
    assert 0.0 <= load.others_ratio <= 1.0
    assert 0.0 <= load.stolen_ratio <= 1.0


def test_page_has_a_place_for_every_part() -> None:
    for name, part in PARTS.items():
        text = (_ROOT / "docs" / part.page).read_text(encoding="utf-8")
        begin, end = marks(name)
        assert text.count(begin) == 1
        assert text.index(begin) < text.index(end)
