"""Comparing reports, and gates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.benchmark import benchmark
from agent.runtime.errors import UsageError
from agent.tools.benchmark.compare import compare, parse_gate
from agent.tools.benchmark.report import CaseResult, load_report
from tests.fixtures.benchmark_reports import CLOSED, case_result, engine_result, machine_report, report_of


def test_planted_ten_percent_is_slower() -> None:
    comparison = compare(machine_report(3.0, seed=1), machine_report(3.3, seed=5))
    assert {line.verdict for line in comparison.lines} == {"slower"}
    assert {line.verdict for line in compare(machine_report(3.3, seed=5), machine_report(3.0, seed=1)).lines} == {
        "faster"
    }


def test_the_same_measured_twice_is_the_same() -> None:
    for seed in range(10, 50, 8):
        comparison = compare(machine_report(3.0, seed=seed), machine_report(3.0, seed=seed + 4))
        assert {line.verdict for line in comparison.lines} == {"same"}


def test_gate_breaks_on_what_it_forbids() -> None:
    first, second = machine_report(3.0, seed=1), machine_report(3.6, seed=5)
    assert compare(first, second, [parse_gate("p50_ms>+10%")]).has_failed
    assert not compare(first, second, [parse_gate("p50_ms>+30%")]).has_failed
    assert compare(first, second, [parse_gate("throughput_hz<-10%")]).has_failed
    assert compare(first, second, [parse_gate("p90_ms>3.5")]).has_failed
    assert not compare(second, first, [parse_gate("p50_ms>+10%")]).has_failed


@pytest.mark.parametrize("text", ["p99>+10%", "p99_ms", "p99_ms=3", "p99_ms>ten", "", "p98_ms>1"])
def test_gate_that_is_none_is_refused_with_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="is not a gate: write a metric"):
        parse_gate(text)


def test_different_environments_are_not_compared_unless_forced() -> None:
    first, second = machine_report(3.0, seed=1), machine_report(3.0, seed=5, onnxruntime="1.30.0")
    with pytest.raises(UsageError, match=r"onnxruntime is '1\.31\.1' in one and '1\.30\.0' in the other"):
        compare(first, second)
    assert compare(first, second, force=True).differences


@pytest.mark.parametrize("side", ["first", "second"])
def test_figures_that_are_not_valid_never_pass(side: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(machine_report(3.0, seed=1).as_json())
    report = machine_report(3.0, seed=1)
    (engine, *others) = report.engines
    drifted = replace(engine.cases[0], invalid=("the machine drifted",))
    broken = replace(engine, cases=(drifted, *engine.cases[1:]))
    bad.write_text(replace(report, engines=(broken, *others)).as_json())
    files = [str(bad), str(good)] if side == "first" else [str(good), str(bad)]
    run = CliRunner()
    refused = run.invoke(benchmark, ["compare", *files], standalone_mode=False)
    assert refused.return_value == 1
    assert f"the {side} report is not valid: the machine drifted" in refused.stdout
    assert json.loads(run.invoke(benchmark, ["compare", *files, "--json"]).stdout)["valid"] is False
    assert run.invoke(benchmark, ["compare", *files, "--force"], standalone_mode=False).return_value == 0
    assert run.invoke(benchmark, ["compare", str(good), str(good)], standalone_mode=False).return_value == 0


def test_runs_of_different_lengths_are_compared() -> None:
    first, second = machine_report(3.0, seed=1), machine_report(3.3, seed=5)
    shorter = [
        replace(engine, cases=tuple(replace(one, case=replace(one.case, min_queries=200)) for one in engine.cases))
        for engine in second.engines
    ]
    comparison = compare(first, replace(second, engines=tuple(shorter)))
    assert {line.verdict for line in comparison.lines} == {"slower"}
    assert (comparison.only_first, comparison.only_second) == ((), ())


def test_nothing_in_common_is_refused() -> None:
    cases = machine_report(3.0, seed=1).engines[0].cases
    other = report_of([engine_result("torch", "fp32", cases)])
    with pytest.raises(UsageError, match="no engine and scenario in common"):
        compare(machine_report(3.0, seed=1), other)


def test_what_only_one_report_has_is_named() -> None:
    first = machine_report(3.0, seed=1)
    short = report_of([engine_result("ort-cpu", "fp32", [case_result(CLOSED, first.engines[0].cases[1].rounds_ms)])])
    assert compare(first, short).only_first == ("ort-cpu fp32, paced 30 fps",)


def test_report_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    report = machine_report(3.0, seed=1)
    path = tmp_path / "report.json"
    path.write_text(report.as_json())
    assert load_report(path) == report


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "has schema None"),
        ('{"schema": "benchmark/2"}', "has schema 'benchmark/2'"),
        ('{"schema": "benchmark/1"}', "is not a whole report"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_file_that_is_no_report_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=words):
        load_report(path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda one: replace(one, rounds_ms=((), ())), "rounds_ms"),
        (lambda one: replace(one, rounds_ms=((0.0, 1.0),)), "rounds_ms"),
        (lambda one: replace(one, rounds_ms=((1.0, math.nan),)), "rounds_ms"),
        (lambda one: replace(one, throughput_hz=math.nan), "throughput_hz"),
        (lambda one: replace(one, spread=replace(one.spread, p99_ms=math.nan)), "p99_ms"),
        (lambda one: replace(one, spread=replace(one.spread, p50_ms=0.0)), "p50_ms"),
        (lambda one: replace(one, spread=replace(one.spread, max_ms=math.inf)), "max_ms"),
    ],
)
def test_report_with_figures_that_would_pass_every_gate_is_refused(
    tmp_path: Path, change: Callable[[CaseResult], CaseResult], name: str
) -> None:
    report = machine_report(3.0, seed=1)
    engine = report.engines[0]
    path = tmp_path / "report.json"
    path.write_text(replace(report, engines=(replace(engine, cases=(change(engine.cases[0]),)),)).as_json())
    with pytest.raises(
        UsageError, match=f"not a whole report: ort-cpu fp32, paced 30 fps: {name} is not a time or rate"
    ):
        load_report(path)


def test_report_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_report(tmp_path / "none.json")
