"""What a report says and looks like."""

from __future__ import annotations

import csv
import functools
import io
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.tools.benchmark.conditions import Conditions
from agent.tools.benchmark.judge import reasons_against, warnings_about, warnings_about_machine
from agent.tools.benchmark.recommend import Limits, headline_of, measurements_for, recommend
from agent.tools.benchmark.render.chart import LETTERS_POINTS, WIDTH_INCHES
from agent.tools.benchmark.render.html import to_html
from agent.tools.benchmark.render.markdown import to_markdown
from agent.tools.benchmark.render.series import bar_panels, colours_of
from agent.tools.benchmark.render.svg import charts_of
from agent.tools.benchmark.render.tables import perf_analyzer_csv, summary_sentence
from agent.tools.benchmark.report import Report
from agent.tools.benchmark.scenarios import cases_of
from agent.tools.benchmark.statistics import spread_of
from tests.fixtures.benchmark_reports import (
    CLOSED,
    PACED,
    QUIET,
    case_result,
    engine_result,
    made_up_rounds,
    png_drawn_by_child,
    report_of,
    shown,
)


@functools.cache
def _report() -> Report:
    engines = [
        engine_result("ort-cpu", "fp32", [case_result(PACED, made_up_rounds(3.0, seed=1))]),
        engine_result("ort-cpu", "int8", [case_result(PACED, made_up_rounds(1.5, seed=2))], agreement=0.98),
        engine_result("bare", "fp32", [case_result(PACED, made_up_rounds(2.9, seed=3))]),
    ]
    return replace(report_of(engines), recommendation=recommend(engines, Limits()))


def test_fastest_that_keeps_the_answers_is_recommended() -> None:
    choice = _report().recommendation
    assert choice is not None
    assert (choice.engine, choice.precision) == ("ort-cpu", "int8")
    assert re.search(r"next is ort-cpu fp32 at [12]\.\d\d times that", choice.reason)


def test_times_in_perf_analyzers_columns() -> None:
    events = {
        "h2d": spread_of([100_000] * 700),
        "compute": spread_of([2_500_000] * 700),
        "d2h": spread_of([50_000] * 700),
    }
    with_events = replace(case_result(CLOSED, made_up_rounds(3.0, seed=1)), stages=events)
    report = report_of(
        [
            engine_result("ort-cuda", "fp16", [with_events]),
            engine_result("ort-cpu", "fp32", [case_result(PACED, made_up_rounds(3.0, seed=2))]),
        ]
    )
    cuda, cpu = csv.DictReader(io.StringIO(perf_analyzer_csv(report)))
    assert list(cuda)[:3] == ["Concurrency", "Inferences/Second", "Client Send"]
    copied_in, compute, copied_out = (f"Server Compute {name}" for name in ("Input", "Infer", "Output"))
    assert [cuda[name] for name in (copied_in, compute, copied_out)] == ["100", "2500", "50"]
    spread = report.engines[1].cases[0].spread
    assert cpu[compute] == str(round(1000 * spread.mean_ms))
    assert [cpu[f"p{rank} latency"] for rank in (50, 90, 95, 99)] == [
        str(round(1000 * value)) for value in (spread.p50_ms, spread.p90_ms, spread.p95_ms, spread.p99_ms)
    ]
    assert float(cpu["Inferences/Second"]) == pytest.approx(report.engines[1].cases[0].throughput_hz, abs=0.001)
    assert (cpu["Engine"], cpu["Case"], cpu["Batch"]) == ("ort-cpu fp32", "paced 30 fps", "1")


def test_engine_that_loses_answers_is_not_recommended() -> None:
    engines = list(_report().engines)
    engines[1] = engine_result("ort-cpu", "int8", engines[1].cases, agreement=0.5, passed=False)
    choice = recommend(engines, Limits())
    assert choice.precision == "fp32"
    assert "top-1 agreement 0.5 is below its minimum" in choice.reason


def test_limits_rule_engines_out() -> None:
    choice = recommend(_report().engines, Limits(max_p99_ms=0.1))
    assert choice.engine is None
    assert "is above 0.1 ms" in choice.reason
    assert "has no power sensor" in recommend(_report().engines, Limits(max_watts=5.0)).reason


def test_safer_precision_wins_where_no_difference_can_be_seen() -> None:
    engines = [
        engine_result("ort-cpu", "fp32", [case_result(PACED, made_up_rounds(3.0, seed=1))]),
        engine_result("ort-cpu", "int8", [case_result(PACED, made_up_rounds(2.99, seed=2))], agreement=1.0),
    ]
    assert recommend(engines, Limits()).precision == "fp32"


def test_what_auto_remembers_has_the_recommended_engine_first() -> None:
    report = _report()
    assert report.recommendation is not None
    found = measurements_for(report.engines, report.recommendation)
    assert [(one.engine, one.precision) for one in found] == [("ort-cpu", "int8")]


def test_page_needs_nothing_from_elsewhere() -> None:
    page = to_html(_report())
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page)
    assert "<svg" in page
    assert "ort-cpu int8" in page


def test_letters_of_the_charts_are_readable_in_a_window_of_420_pixels() -> None:
    page = to_html(_report())
    width_rem = float(re.findall(r"svg \{ width: 100%; min-width: ([\d.]+)rem;", page)[0])
    (view_width,) = {float(width) for width in re.findall(r'viewBox="0 [\d.-]+ ([\d.]+) ', page)}
    smallest = min(float(size) for size in re.findall(r'font-size="([\d.]+)"', page))
    assert smallest * width_rem * 16 / view_width >= 11
    assert "figure { overflow-x: auto; }" in page


def test_names_cannot_break_the_page() -> None:
    report = _report()
    evil = replace(report, model=replace(report.model, name="<script>alert(1)</script>"))
    assert "<script>" not in to_html(evil)


def test_markdown_has_every_engine_and_what_was_not_measured() -> None:
    text = to_markdown(_report())
    assert "| ort-cpu int8 | paced 30 fps |" in text
    assert "| tensorrt | any | no driver | install one |" in text
    assert "ort-cpu int8 passed: its top-1 label matches ort-cpu fp32 on 98.0% of 60 images" in text


_DARK_STYLE = """
savefig.transparent: True
figure.facecolor: black
axes.facecolor: black
text.color: white
xtick.color: white
ytick.color: white
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    """The report's PNG, shape (height, width, 4) uint8 BGRA, drawn for a user whose style is transparent and dark."""
    drawn = png_drawn_by_child(_report(), tmp_path_factory.mktemp("image"), _DARK_STYLE)
    found = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_UNCHANGED)
    assert found is not None
    return np.asarray(found, np.uint8)


def test_image_shows_the_bars(image: NDArray[np.uint8]) -> None:
    assert image.shape[1] == 1600
    assert len({bytes(pixel) for pixel in image[::5, ::5].reshape(-1, 4)}) > 20


def test_image_has_its_own_background_and_ink_whatever_the_style_file_says(image: NDArray[np.uint8]) -> None:
    assert image[:, :, 3].min() == 255, "transparent"
    white = (image[:, :, :3] == 255).all(axis=2)
    assert white[0, 0]
    assert white.mean() > 0.7
    assert (np.abs(image[:, :, :3].astype(int) - [0x33, 0x29, 0x1F]).max(axis=2) <= 2).sum() > 1000, "no dark letters"


def test_letters_of_the_image_can_be_read_at_420_pixels() -> None:
    assert LETTERS_POINTS / 72 * (420 / WIDTH_INCHES) >= 10  # a point is a 72nd of an inch


def test_a_report_without_engines_has_no_charts(tmp_path: Path) -> None:
    assert charts_of(report_of([])) == ""
    assert png_drawn_by_child(report_of([]), tmp_path).startswith(b"\x89PNG")


def _cut_report() -> Report:
    """One call in forty takes far longer than the axis reaches."""
    rounds = tuple((*([3.0] * 78), 90.0, 90.0) for _ in range(10))
    engines = [
        engine_result("ort-cpu", "fp32", [case_result(PACED, rounds), case_result(CLOSED, rounds)]),
        engine_result("ort-<b>", "int8", [case_result(PACED, made_up_rounds(1.5, seed=2))]),
    ]
    return report_of(engines)


def test_a_whisker_that_is_cut_off_has_its_arrow_inside_the_plot_and_its_figure_beside_it() -> None:
    panel = bar_panels(_cut_report())[0]
    bar = panel.groups[0][1][0]
    assert panel.is_cut(bar)
    assert bar.words == "3, p99 90"
    svg = charts_of(_cut_report())
    x, y, width, height = map(float, re.findall(r'viewBox="([^"]+)"', svg)[0].split())
    first = svg[: svg.index("</svg>")]
    paths = re.findall(r'points="([^"]+)"', first)
    points = [one.split(",") for path in paths for one in path.split()]
    assert all(x <= float(px) <= x + width and y <= float(py) <= y + height for px, py in points)
    assert all(y <= float(py) <= y + height for py in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', first))
    # The title is no part of the drawing, so nothing can lie over it.
    assert panel.title not in re.sub(r"<title>.*?</title>", "", first[first.index("<svg") :])


def test_letters_of_the_charts_can_be_read_on_a_phone() -> None:
    """420 pixels less the page's margins of 16: no letter is smaller than 9 pixels there."""
    svg = charts_of(_cut_report())
    for drawing in re.findall(r"<svg.*?</svg>", svg):
        width = float(re.findall(r'viewBox="\S+ \S+ (\S+) ', drawing)[0])
        assert min(float(one) for one in re.findall(r'font-size="([\d.]+)"', drawing)) * (420 - 32) / width >= 9


def test_page_has_colours_for_dark_and_light_and_charts_have_no_ink_of_their_own() -> None:
    page = to_html(_report())
    assert "color-scheme: light dark" in page
    assert "prefers-color-scheme: dark" in page
    assert set(re.findall(r'<text [^>]*class="(\w+)"', page)) == {"ink", "faint"}
    assert not re.search(r"<text [^>]*fill=", page)
    for kind in ("ink", "faint", "grid", "whisker"):
        assert f"svg .{kind}" in page


def test_page_and_png_show_every_engine_of_every_case(image: NDArray[np.uint8]) -> None:
    report = _report()
    page = to_html(report)
    bars = [bar for panel in bar_panels(report) for _, group in panel.groups for bar in group]
    assert [bar.label for bar in bars] == ["ort-cpu fp32", "ort-cpu int8", "bare session fp32"]
    for bar in bars:
        assert f">{bar.label}</text>" in page
        assert f">{bar.words}</text>" in page
    for colour in colours_of(report.engines).values():
        bgr = [int(colour[at : at + 2], 16) for at in (5, 3, 1)]
        assert (np.abs(image[:, :, :3].astype(int) - bgr).max(axis=2) <= 2).sum() > 1000, colour


def test_invalid_case_marks_every_form() -> None:
    report = _report()
    bad = replace(report.engines[0].cases[0], invalid=("busy machine (other programs took 80%)",))
    report = replace(report, engines=(replace(report.engines[0], cases=(bad,)), *report.engines[1:]))
    assert report.invalid == ("busy machine: ort-cpu fp32 paced 30 fps (other programs took 80%)",)
    assert "Not valid, do not use" in to_html(report)
    assert "**Not valid**" in to_markdown(report)
    condition = "Would be recommended if the figures were valid:"
    assert all(condition in text for text in (to_html(report), to_markdown(report), shown(report)))
    assert not any(condition in text for text in (to_html(_report()), to_markdown(_report()), shown(_report())))


def test_busy_machine_throttling_and_drift_make_a_run_invalid() -> None:
    spread, steady = spread_of([1_000_000] * 700), [[1.0] * 10] * 3
    assert reasons_against(PACED, spread, QUIET, steady, missed=0) == ()
    busy = replace(QUIET, others_ratio=0.5)
    hot = replace(QUIET, has_throttled=True)
    assert "busy machine" in reasons_against(PACED, spread, busy, steady, missed=0)[0]
    assert "throttled" in reasons_against(PACED, spread, hot, steady, missed=0)[0]
    starved = replace(hot, throttle_causes={"over_current": "oc3 +41 events/s", "heat": "gpu-throttle-alert"})
    text = reasons_against(PACED, spread, starved, steady, missed=0)[0]
    assert text.endswith("(over current: oc3 +41 events/s; heat: gpu-throttle-alert)")
    assert "drifted" in reasons_against(PACED, spread, QUIET, [[1.0], [1.3]], missed=0)[0]
    assert "cannot keep up with 30 fps" in reasons_against(PACED, spread, QUIET, steady, missed=100)[0]
    assert "too few runs" in reasons_against(CLOSED, spread_of([1] * 10), QUIET, steady, missed=0)[0]


def test_cautions_of_the_device_are_those_of_trtexec() -> None:
    spread = spread_of([1_000_000] * 700)
    stages = {"compute": spread, "enqueue": spread_of([900_000] * 700), "h2d": spread_of([1_200_000] * 700)}
    found = warnings_about(CLOSED, spread, QUIET, stages, missed=0)
    assert any("bound by enqueue" in text for text in found)
    assert any("to the device take longer" in text for text in found)


def test_machine_is_warned_about() -> None:
    found = warnings_about_machine(clocks_locked=False, power_mode="2", load=3.0, cores=2)
    assert [text.split(" ")[0] for text in found] == ["clocks", "power", "busy"]
    assert warnings_about_machine(clocks_locked=True, power_mode="0", load=0.0, cores=2) == []


def test_lengths_are_those_of_the_rules() -> None:
    single, multi, offline = cases_of(["single_stream", "multi_stream", "offline"], [1, 8], fps=30, is_quick=False)
    assert (single.headline, single.min_duration_s, single.min_queries) == ("p90", 600.0, 64)
    assert (multi.headline, multi.samples, multi.min_queries) == ("p99", 8, 662)
    assert offline.batch * offline.min_queries >= 24_576
    assert all(case.is_short for case in cases_of(["single_stream", "latency"], [1], fps=30, is_quick=True))


def test_paced_is_the_headline() -> None:
    assert [case.mode for case in cases_of(["latency"], [1, 4], fps=30, is_quick=False)] == [
        "paced",
        "closed",
        "closed",
    ]


def test_power_gives_images_per_joule_its_place() -> None:
    watts = Conditions(others_ratio=0.0, stolen_ratio=0.0, watts_mean=10.0, celsius_max=61.0)
    result = replace(case_result(PACED, made_up_rounds(3.0, seed=1), conditions=watts), images_per_joule=12.5)
    assert "| 12.5 |" in to_markdown(report_of([engine_result("ort-cpu", "fp32", [result])]))


def test_star_is_explained_in_one_line_of_markdown() -> None:
    assert "\n- \\* after a percentile: too few runs for it\n" in to_markdown(_report())


def test_soak_alone_is_judged_by_what_it_sustains() -> None:
    case = cases_of(["soak"], [1], fps=30, is_quick=False)[0]
    burst = case_result(replace(case, part="burst"), made_up_rounds(2.0, seed=1))
    sustained = case_result(replace(case, part="sustained"), made_up_rounds(3.0, seed=2))
    engine = engine_result("ort-cpu", "fp32", [burst, sustained])
    assert headline_of(engine) is sustained
    assert recommend([engine], Limits(max_p99_ms=2.9)).engine is None


def test_soak_tells_how_much_slower_a_warm_device_is() -> None:
    case = cases_of(["soak"], [1], fps=30, is_quick=False)[0]
    burst = case_result(replace(case, part="burst"), made_up_rounds(2.0, seed=1))
    sustained = case_result(replace(case, part="sustained"), made_up_rounds(3.0, seed=2))
    text = to_markdown(report_of([engine_result("ort-cpu", "fp32", [burst, sustained])]))
    assert re.search(r"a call on the warm device takes 1\.[45]\d times as long", text)


def test_report_ends_with_one_sentence_to_paste() -> None:
    last = shown(_report()).rstrip().splitlines()[-1]
    assert re.fullmatch(
        r"m 1\.0\.0 \(8x8\) on a CPU, 2 cores: ort-cpu int8 takes 1\.\d\d ms for a frame "
        r"\(p99 \d\.\d\d ms, paced 30 fps\) and 1\.\d\d ms of CPU; agent 0\.1\.0, 2026-01-02",
        last,
    )
    busy = case_result(PACED, made_up_rounds(3.0, seed=1))
    bad = report_of([engine_result("ort-cpu", "fp32", [replace(busy, invalid=("busy machine (others 80 %)",))])])
    assert shown(bad).rstrip().splitlines()[-1].endswith("; not valid: busy machine")


def test_report_without_engines_has_no_sentence() -> None:
    assert summary_sentence(report_of([])) is None
