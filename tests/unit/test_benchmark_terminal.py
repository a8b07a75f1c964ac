"""What a terminal shows of reports and comparisons."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from agent.tools.benchmark.compare import compare
from agent.tools.benchmark.render.terminal import print_comparison
from agent.tools.benchmark.report import Absent, Report
from tests.fixtures.benchmark_reports import machine_report, shown


def test_brackets_stay_in_a_report() -> None:
    remedy = "pip install torch"
    absent = Absent(engine="torch", precision="any", reason="no [bold]torch", remedy=remedy)
    text = shown(replace(machine_report(3.0, seed=1), absent=(absent,), warnings=("see [/x] there",)))
    assert remedy in text
    assert "no [bold]torch" in text
    assert "note: see [/x] there" in text


def _compared(first: Report, second: Report) -> str:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    print_comparison(compare(first, second, force=True), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_brackets_stay_in_a_comparison() -> None:
    first, second = (machine_report(3.0, seed=1, driver=driver) for driver in ("[red]one", "two"))
    assert "driver is '[red]one' in one" in _compared(first, second)


def test_comparison_names_the_report_that_is_not_valid_with_its_reasons() -> None:
    good = machine_report(3.0, seed=1)
    engine = good.engines[0]
    case = replace(engine.cases[0], invalid=("busy machine (other programs took 80%)",))
    bad = replace(good, engines=(replace(engine, cases=(case, *engine.cases[1:])),))
    reason = "report is not valid: busy machine: ort-cpu fp32 paced 30 fps (other programs took 80%)"
    assert "not valid" not in _compared(good, good)
    assert [line for line in _compared(bad, good).splitlines() if "not valid" in line] == [f"the first {reason}"]
    assert [line for line in _compared(good, bad).splitlines() if "not valid" in line] == [f"the second {reason}"]
