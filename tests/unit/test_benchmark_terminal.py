"""What a terminal shows of reports and comparisons."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.console import Console

from agent.tools.benchmark.compare import compare
from agent.tools.benchmark.render.progress import shown_progress
from agent.tools.benchmark.render.tables import cpu_sentence
from agent.tools.benchmark.render.terminal import print_comparison
from agent.tools.benchmark.report import Absent, Report
from agent.tools.benchmark.scenarios import cases_of
from tests.fixtures.benchmark_reports import CLOSED, case_result, engine_result, machine_report, report_of, shown


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


def _with_cpu(report: Report, rounds: Mapping[str, tuple[float, ...]], invalid: tuple[str, ...]) -> Report:
    """Each engine, back to back, with these CPU times."""
    engines = []
    for engine in report.engines:
        cases = [replace(one, cpu_rounds_ms=rounds.get(engine.label, ()), invalid=invalid) for one in engine.cases]
        engines.append(replace(engine, cases=tuple(cases)))
    return replace(report, engines=tuple(engines))


def test_cpu_time_speaks_where_the_clock_cannot_be_trusted() -> None:
    report = report_of(
        [
            engine_result("ort-cpu", "fp32", [case_result(CLOSED, [(3.0,) * 100] * 2)]),
            engine_result("ort-cpu", "int8", [case_result(CLOSED, [(2.0,) * 100] * 2)]),
            engine_result("tensorrt", "fp32", [case_result(CLOSED, [(1.0,) * 100] * 2)]),
        ]
    )
    rounds: dict[str, tuple[float, ...]] = {
        "ort-cpu fp32": (0.9, 1.4),
        "ort-cpu int8": (0.75, 0.5),
        "tensorrt fp32": (0.1, 0.1),
    }
    drifted = _with_cpu(report, rounds, ("the machine drifted",))
    assert cpu_sentence(drifted) == (
        "By CPU time, which a busy or drifting machine changes least: ort-cpu int8 0.50 ms a frame, "
        "ort-cpu fp32 0.90 ms (1.80 ×)"
    )
    assert cpu_sentence(_with_cpu(report, rounds, ())) is None
    assert cpu_sentence(_with_cpu(report, {}, ("the machine drifted",))) is None


def test_bar_says_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")  # a log, or a root without any, has no terminal that can move its cursor
    console = Console(file=io.StringIO(), width=120, force_terminal=True, force_interactive=True)
    with shown_progress(console) as progress:
        progress.phase("measuring", 10.0)
        progress.step("round 3 of 10: ort-cpu fp32, paced 30 fps")
        progress.advance(1.0)
    assert isinstance(console.file, io.StringIO)
    assert "round 3 of 10: ort-cpu fp32, paced 30 fps" in console.file.getvalue()


def test_log_of_a_run_has_a_line_for_each_phase_and_none_for_its_steps() -> None:
    console = Console(file=io.StringIO(), width=120)
    with shown_progress(console) as progress:
        progress.phase("measuring", 10.0)
        progress.step("round 3 of 10: ort-cpu fp32, paced 30 fps")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "measuring, about 10 s\n"


@pytest.mark.parametrize(
    ("engines", "queries", "closed_s", "headline"),
    [(1, 700, 10.0, "p99"), (2, 700, 10.0, "p99"), (4, 472, 6.75, "p90"), (100, 130, 2.0, "p90")],
)
def test_more_engines_get_fewer_runs_each(engines: int, queries: int, closed_s: float, headline: str) -> None:
    paced, closed = cases_of(["latency"], [1], fps=30.0, is_quick=False, share_s=90.0 / engines)
    assert (paced.min_queries, closed.min_duration_s, paced.headline) == (queries, closed_s, headline)
    assert paced.is_short == (headline == "p90")
    if engines < 10:
        assert engines * (paced.expected_s + closed.expected_s) <= 90.0


def test_quick_is_quick_however_much_time_there_is() -> None:
    paced, closed = cases_of(["latency"], [1], fps=30.0, is_quick=True, share_s=1000.0)
    assert (paced.min_queries, closed.min_duration_s) == (130, 2.0)
