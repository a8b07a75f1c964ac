"""Figures are quoted only where a table has them, with their verdict, and with what speaks against them."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.tools.benchmark.report import load_report
from scripts.performance.command import main

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_FIGURE = re.compile(r"(?<![A-Za-z])\d[\d,]*(?:\.\d+)?")
_LINK = re.compile(r"\]\((docs/[^)#]+)(?:#[^)]*)?\)")


def _measured() -> str:
    return (_ROOT / "README.md").read_text(encoding="utf-8").split("## Measured\n", 1)[1].split("\n## ", 1)[0]


def _tables(text: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Each table with the paragraph above it."""
    blocks = text.split("\n\n")
    for above, block in itertools.pairwise(blocks):
        if block.startswith("|"):
            lines = [line.strip("| ").split(" | ") for line in block.splitlines()]
            yield above, [lines[0], *lines[2:]]


def missing_figures(text: str, pages: str) -> list[str]:
    """The figures of ``text`` that stand nowhere in ``pages``, literally."""
    known = set(_FIGURE.findall(pages))
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    return [figure for figure in _FIGURE.findall(plain) if figure not in known]


def _pages(text: str) -> str:
    return "\n".join((_ROOT / page).read_text(encoding="utf-8") for page in _LINK.findall(text))


def _rows() -> list[list[str]]:
    """The rows of the README's table of figures."""
    ((_, rows),) = _tables(_measured())
    return rows[1:]


def test_every_figure_of_the_readme_stands_in_the_page_that_its_row_links_to() -> None:
    for row in _rows():
        text = " | ".join(row)
        assert missing_figures(text, _pages(text)) == [], text


def test_a_figure_that_no_page_has_is_found() -> None:
    assert missing_figures("1,514 per second, 3.5 times", "at 1,514 per second") == ["3.5"]
    assert missing_figures("`--seed 7` and [x](docs/y.md#8)", "") == []


def _beside_others() -> list[list[str]]:
    """What the README has to show of each row of `scripts/peers`: the agent's figure and the best of the others."""
    page = (_DOCS / "performance.md").read_text(encoding="utf-8")
    section = page.split("## Beside other scripts\n", 1)[1].split("\n## ", 1)[0]
    _, (head, *rows) = next(table for table in _tables(section) if table[1][0][1] == "agent")
    found = []
    for name, *cells in rows:
        ratio, _, best = cells[-1].partition(" × ")
        figures = dict(zip(head[1:], [cell.split(" ")[0] for cell in cells], strict=True))
        found.append([name, figures["agent"], f"{figures[best]} {best}", ratio])
    return found


def test_the_readme_has_every_row_beside_others_whoever_is_first() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Beside other programs\n", 1)[1].split("\n## ", 1)[0]
    ((_, (_, *rows)),) = _tables(section)
    assert rows == _beside_others()
    assert len(rows) >= 15


def test_every_row_of_the_readme_says_how_it_was_measured() -> None:
    for row in _rows():
        assert len(row) == 4, row
        for command in re.findall(r"`((?:scripts|tests)/[^ `]+)", row[3]):
            assert (_ROOT / command).exists(), command
        assert "`" in row[3] or row[3] in {"as above", "its page says how"}, row


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the page and its reports, with the tables of engines and path written again."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(_DOCS / "performance.md", folder)
    (folder / "benchmarks").mkdir()
    for report in (_DOCS / "benchmarks").glob("*.json"):
        shutil.copy(report, folder / "benchmarks")
    assert main(["--from-reports", "--output", str(folder)]) == 0
    return folder


def test_the_tables_of_the_page_are_those_of_its_reports(written: Path) -> None:
    assert (written / "performance.md").read_text(encoding="utf-8") == (_DOCS / "performance.md").read_text(
        encoding="utf-8"
    )


def test_a_figure_that_its_report_calls_not_valid_is_in_no_table(written: Path) -> None:
    page = (written / "performance.md").read_text(encoding="utf-8")
    engines = page.split("<!-- engines:", 1)[1].split("<!-- end of engines", 1)[0]
    rows = {(row[0], row[1]): row for _, table in _tables(engines) for row in table if len(row) > 5}
    found = 0
    for stem in ("conveyor", "mobilenet", "resnet", "mobilenet-torch"):
        report = load_report(_DOCS / "benchmarks" / f"{stem}.json")
        for engine in report.engines:
            row = rows[report.model.name, engine.label]
            for place, mode in ((2, "paced"), (3, "closed")):
                case = next(one for one in engine.cases if (one.case.mode, one.case.batch) == (mode, 1))
                assert (row[place] == "not valid") == bool(case.invalid), row
                assert (f"{mode}: " in row[-1]) == bool(case.invalid), row
                found += bool(case.invalid)
    assert found, "a run without a fault shows nothing"


def test_a_report_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(_DOCS / "performance.md", tmp_path)
    assert main(["--from-reports", "--output", str(tmp_path)]) == 1
    assert "conveyor.json cannot be read" in capsys.readouterr().err
