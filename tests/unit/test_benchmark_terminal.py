"""What a terminal shows of reports and comparisons."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from agent.benchmark.compare import compare
from agent.benchmark.report import Absent
from agent.benchmark.terminal import print_comparison
from tests.fixtures.benchmark_reports import machine_report, shown


def test_brackets_stay_in_a_report() -> None:
    remedy = "pip install 'edge-inference-agent[torch]'"
    absent = Absent(engine="torch", precision="any", reason="no [bold]torch", remedy=remedy)
    text = shown(replace(machine_report(3.0, seed=1), absent=(absent,), warnings=("see [/x] there",)))
    assert remedy in text
    assert "no [bold]torch" in text
    assert "note: see [/x] there" in text


def test_brackets_stay_in_a_comparison() -> None:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    first, second = (machine_report(3.0, seed=1, driver=driver) for driver in ("[red]one", "two"))
    print_comparison(compare(first, second, force=True), console)
    assert isinstance(console.file, io.StringIO)
    assert "driver is '[red]one' in one" in console.file.getvalue()
