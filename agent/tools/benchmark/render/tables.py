"""The tables that every form of the report shows, as text ready to print, in the same order everywhere."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.tools.benchmark.compare import Comparison, Line
from agent.tools.benchmark.recommend import headline_of
from agent.tools.benchmark.report import CaseResult, EngineResult, PipelineResult, Report
from agent.tools.benchmark.statistics import Ratio, Spread

NOTHING = "–"
UNSURE = "*"
"""Marks a percentile with too few runs."""

_CPU_ENGINES = ("ort-cpu", "ort-openvino")

TIME_COLUMNS = (
    "engine", "scenario", "n", "min", "p50", "p90", "p95", "p99", "max", "mean", "sd", "img/s", "CPU ms", "× bare",
)  # fmt: skip
FACT_COLUMNS = (
    "engine", "runs on", "prepare s", "load ms", "memory MiB", "peak MiB", "top-1 agreement", "max difference",
    "top-1", "top-5", "W", "img/J", "°C", "MHz", "others",
)  # fmt: skip
STAGE_COLUMNS = ("engine", "scenario", "stage", "p50", "p90", "p99", "max")
PIPELINE_COLUMNS = ("stage", "p50", "p95", "p99", "max")
COMPARE_COLUMNS = ("engine", "scenario", "first p50", "second p50", "ratio p50", "ratio p99", "verdict")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of text; the first ``words`` columns are words, the rest are figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1


def report_tables(report: Report) -> list[Table]:
    """All tables of a report that have rows."""
    tables = [
        Table("Time of a call, ms", TIME_COLUMNS, tuple(_time_rows(report)), words=2),
        Table("Inside the device, ms", STAGE_COLUMNS, tuple(_stage_rows(report)), words=3),
        _without_empty(Table("Engines", FACT_COLUMNS, tuple(_fact_row(one) for one in report.engines), words=2)),
        Table("Details", ("engine", "what", "value"), tuple(_detail_rows(report)), words=3),
        Table(
            "Not measured",
            ("engine", "precision", "reason", "to get it"),
            tuple((one.engine, one.precision, one.reason, one.remedy) for one in report.absent),
            words=4,
        ),
        *(pipeline_table(one) for one in report.pipelines),
    ]
    return [table for table in tables if table.rows]


def pipeline_table(result: PipelineResult) -> Table:
    """The stages of the agent's own path."""
    rows = [(row.stage, *map(ms, (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms))) for row in result.stages]
    for name, spread in (
        ("frame in hand → subscriber", result.from_hand),
        ("… all but inference", result.without_infer),
        ("start of capture → subscriber", result.end_to_end),
        ("bare session", result.bare),
    ):
        if spread is not None:
            rows.append((name, *percentiles(spread, ("p50", "p95", "p99")), ms(spread.max_ms)))
    return Table(f"Pipeline: {result.name}, ms", PIPELINE_COLUMNS, tuple(rows))


def pipeline_sentence(result: PipelineResult) -> str:
    """The figures that its table has no column for."""
    drops = ", ".join(f"{count} {reason}" for reason, count in sorted(result.dropped.items())) or "none"
    overhead = (
        "" if result.overhead_p50_ms is None else f", {result.overhead_p50_ms:+.3f} ms above the bare session at p50"
    )
    return (
        f"{result.name}: {result.throughput_hz:.1f} results/s from {result.cameras} camera(s), {result.source}, "
        f"{result.engine} {result.precision}{overhead}; {result.cpu_ms_per_frame:.2f} ms CPU a frame; "
        f"dropped: {drops}; lost on the way: {result.lost_on_the_way}; ready after {result.ready_s:.2f} s; "
        f"{result.resident_bytes / 2**20:.0f} MiB resident, grew {result.growth_bytes / 2**20:+.1f} MiB; "
        f"other programs took {result.others_ratio:.0%} of the processor"
    )


def comparison_table(comparison: Comparison) -> Table:
    """Two reports side by side."""
    return Table("Second against first", COMPARE_COLUMNS, tuple(_compare_row(line) for line in comparison.lines), 2)


def environment_rows(report: Report) -> list[tuple[str, str]]:
    """The facts needed to judge the figures."""
    env = report.environment
    names = ("board", "l4t", "power_mode", "os", "kernel", "python", "onnxruntime", "tensorrt", "torch", "opencv")
    rows = [("model", f"{report.model.name} {report.model.version}, {report.model.width}×{report.model.height}")]
    rows.append(("images", report.model.images))
    rows.append(("CPU", f"{env.get('cpu')}, {env.get('cpu_cores')} core(s)"))
    gpus = env.get("gpus")
    if isinstance(gpus, list | tuple) and gpus:
        rows.append(("GPU", ", ".join(str(gpu["name"]) for gpu in gpus)))
    rows += [(name.replace("_", " "), str(env[name])) for name in names if env.get(name)]
    locked = {True: "locked", False: "not locked", None: "not shown by the kernel"}[report.clocks_locked]
    rows.append(("clocks", locked))
    rows.append(("load", f"{report.load_before:.1f} before, {report.load_after:.1f} after"))
    rows.append(("measured", f"{report.started_at}, {report.wall_s:.0f} s, {report.rounds} rounds"))
    rows.append(("command", report.command))
    return rows


def notes(report: Report) -> list[str]:
    """Every warning once, with the engines it concerns."""
    degraded = [f"{engine.label}: {engine.degraded}" for engine in report.engines if engine.degraded]
    paths = [text for one in report.pipelines for text in one.warnings]
    return [*report.warnings, *degraded, *report.remarks, *paths]


def recommended(report: Report) -> str:
    """How a recommendation is introduced."""
    return "Would be recommended if the figures were valid" if report.invalid else "Recommended"


def cpu_sentence(report: Report) -> str | None:
    """Engines that run on the CPU by their CPU time, where the clock cannot be trusted; None where it can.

    Other programs and a hypervisor lengthen the time on the clock, but hardly the CPU time of a process. The smallest
    of its rounds counts, because they only add to it.
    """
    found = {one.label: min(result.cpu_rounds_ms) for one, result in _on_cpu(report) if result.cpu_rounds_ms}
    if not report.invalid or len(found) < 2:
        return None
    best = min(found, key=lambda label: found[label])
    rest = sorted((value, label) for label, value in found.items() if label != best)
    others = ", ".join(f"{label} {value:.2f} ms ({value / found[best]:.2f} ×)" for value, label in rest)
    return (
        f"By CPU time, which a busy or drifting machine changes least: {best} {found[best]:.2f} ms a frame, {others}"
    )


def _on_cpu(report: Report) -> Iterator[tuple[EngineResult, CaseResult]]:
    """Engines, and their back-to-back case: paced, the caches are cold, which depends on what else runs."""
    for one in report.engines:
        closed = next((case for case in one.cases if case.case.mode == "closed" and case.case.batch == 1), None)
        if closed is not None and not one.is_bare and one.name in _CPU_ENGINES:
            yield one, closed


def summary_sentence(report: Report) -> str | None:
    """What the run found, in one sentence to paste; None where no engine was measured.

    It is about the recommended engine, else about the fastest, and says if the figures are not valid.
    """
    choice = report.recommendation
    measured = [(one, result) for one in report.engines if not one.is_bare and (result := headline_of(one))]
    if not measured:
        return None
    wanted = None if choice is None else (choice.engine, choice.precision)
    chosen = [pair for pair in measured if (pair[0].name, pair[0].precision) == wanted]
    engine, result = min(chosen or measured, key=lambda pair: pair[1].spread.p50_ms)
    spread, model, where = result.spread, report.model, report.environment
    closed = [one.throughput_hz for one in engine.cases if one.case.mode == "closed"]
    machine = where.get("board") or f"{where.get('cpu')}, {where.get('cpu_cores')} cores"
    most = f", at most {max(closed):.0f} a second" if closed else ""
    doubt = f"; not valid: {report.invalid[0].partition(':')[0]}" if report.invalid else ""
    return (
        f"{model.name} {model.version} ({model.width}x{model.height}) on {machine}: {engine.label} takes "
        f"{spread.p50_ms:.2f} ms for a frame (p99 {spread.p99_ms:.2f} ms, {result.case.name}) and "
        f"{result.cpu_ms_per_image:.2f} ms of CPU{most}; agent {report.agent}, {report.started_at[:10]}"
        f"{', quick run' if report.is_quick else ''}{doubt}"
    )


def accuracy_sentences(report: Report) -> list[str]:
    """One sentence per engine about its agreement with the reference."""
    found = []
    for engine in report.engines:
        check = engine.accuracy_check
        if check is None:
            continue
        verdict = "passed" if check.get("passed") else "did NOT pass"
        if check.get("passed") and not check.get("proven", True):
            verdict = "is NOT proven"
        found.append(
            f"{engine.label} {verdict}: its top-1 label matches {check['reference']} on "
            f"{float(check['top1_agreement'] or 0):.1%} of {int(check['images'] or 0)} images "
            f"({check['source']}), probabilities differ by at most {float(check['max_abs_difference'] or 0):.2e}"
        )
    return found


def soak_sentences(report: Report) -> list[str]:
    """Burst against sustained, for each engine that was soaked."""
    return [
        f"{engine.label}: a call on the warm device takes {ratio:.2f} times as long as in the first seconds (p50)"
        for engine in report.engines
        if (ratio := engine.slowdown_ratio) is not None
    ]


def one_liners(report: Report) -> list[str]:
    """One line per engine and case in the format of transformer-deploy, for comparing with diff."""
    lines = [
        f"[{engine.label}, {result.case.name}] mean={s.mean_ms:.2f}ms, sd={s.sd_ms:.2f}ms, min={s.min_ms:.2f}ms, "
        f"max={s.max_ms:.2f}ms, median={s.p50_ms:.2f}ms, 95p={s.p95_ms:.2f}ms, 99p={s.p99_ms:.2f}ms"
        for engine in report.engines
        for result in engine.cases
        for s in [result.spread]
    ]
    return [*lines, *map(pipeline_sentence, report.pipelines)]


_PERF_ANALYZER = (
    "Concurrency", "Inferences/Second", "Client Send", "Network+Server Send/Recv", "Server Queue",
    "Server Compute Input", "Server Compute Infer", "Server Compute Output", "Client Recv",
    "p50 latency", "p90 latency", "p95 latency", "p99 latency",
)  # fmt: skip
"""Source: perf_analyzer's documentation, "Visualizing Latency vs. Throughput"."""


def perf_analyzer_csv(report: Report) -> str:
    """Every case with perf_analyzer's columns, in whole microseconds; the last three columns are ours.

    There is no server and no network, so those columns are 0. Copy times come from the device's events, else 0.
    """
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow((*_PERF_ANALYZER, "Engine", "Case", "Batch"))
    for engine in report.engines:
        for result in engine.cases:
            spread, stages = result.spread, result.stages
            copied_in, copied_out = (stages[name].mean_ms if name in stages else 0.0 for name in ("h2d", "d2h"))
            compute = stages["compute"].mean_ms if "compute" in stages else spread.mean_ms - copied_in - copied_out
            times_ms = (0, 0, 0, copied_in, compute, copied_out, 0, spread.p50_ms, spread.p90_ms, spread.p95_ms)
            writer.writerow(
                (
                    1,
                    f"{result.throughput_hz:.3f}",
                    *(round(1000 * one) for one in (*times_ms, spread.p99_ms)),
                    engine.label,
                    result.case.name,
                    result.case.batch,
                )
            )
    return lines.getvalue()


def ms(value: float) -> str:
    """Milliseconds with three significant digits or so."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def percentiles(spread: Spread, names: Sequence[str]) -> list[str]:
    """Percentiles, marked if there were too few runs."""
    return [ms(getattr(spread, f"{name}_ms")) + (UNSURE if name in spread.too_few else "") for name in names]


def ratio_text(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _time_rows(report: Report) -> list[tuple[str, ...]]:
    return [_time_row(engine, result) for engine in report.engines for result in engine.cases]


def _time_row(engine: EngineResult, result: CaseResult) -> tuple[str, ...]:
    spread = result.spread
    return (
        engine.label,
        result.case.name,
        str(spread.n),
        ms(spread.min_ms),
        *percentiles(spread, ("p50", "p90", "p95", "p99")),
        ms(spread.max_ms),
        ms(spread.mean_ms),
        ms(spread.sd_ms),
        f"{result.throughput_hz:.1f}",
        f"{result.cpu_ms_per_image:.2f}",
        NOTHING if result.to_bare is None else f"{result.to_bare:.3f}",
    )


def _stage_rows(report: Report) -> list[tuple[str, ...]]:
    return [
        (engine.label, result.case.name, name, *percentiles(spread, ("p50", "p90", "p99")), ms(spread.max_ms))
        for engine in report.engines
        for result in engine.cases
        for name, spread in result.stages.items()
    ]


def _fact_row(engine: EngineResult) -> tuple[str, ...]:
    conditions = [one.conditions for one in engine.cases]
    check, accuracy = engine.accuracy_check, engine.accuracy
    device = engine.device.removesuffix("ExecutionProvider")
    nodes = ", ".join(
        f"{count} on {name.removesuffix('ExecutionProvider')}" for name, count in engine.placement.items()
    )
    energy = next((one.images_per_joule for one in engine.cases if one.images_per_joule), None)
    return (
        engine.label,
        nodes or device,
        f"{engine.prepare_s:.1f}",
        f"{engine.load_ms:.0f}",
        f"{engine.own_bytes / 2**20:.0f}",
        f"{engine.peak_bytes / 2**20:.0f}",
        NOTHING if check is None else f"{float(check['top1_agreement'] or 0):.3f}",
        NOTHING if check is None else f"{float(check['max_abs_difference'] or 0):.1e}",
        NOTHING if accuracy is None else f"{accuracy.top1_ratio:.1%}",
        NOTHING if accuracy is None else f"{accuracy.top5_ratio:.1%}",
        _mean_text([one.watts_mean for one in conditions], "{:.1f}"),
        NOTHING if energy is None else f"{energy:.1f}",
        _mean_text([one.celsius_max for one in conditions], "{:.0f}"),
        _mean_text([one.gpu_mhz_max or one.clock_mhz_max for one in conditions], "{:.0f}"),
        _mean_text([one.others_ratio * 100 for one in conditions], "{:.0f} %"),
    )


def _detail_rows(report: Report) -> list[tuple[str, str, str]]:
    return [
        (engine.label, what.replace("_", " "), str(value))
        for engine in report.engines
        for what, value in [
            *engine.details.items(),
            *([("kept in fp32", ", ".join(engine.kept_layers))] if engine.kept_layers else []),
        ]
    ]


def _compare_row(line: Line) -> tuple[str, ...]:
    verdict = f"{line.verdict}, breaks {', '.join(line.failed)}" if line.failed else line.verdict
    return (
        line.engine,
        line.case,
        ms(line.first.spread.p50_ms),
        ms(line.second.spread.p50_ms),
        ratio_text(line.p50),
        ratio_text(line.p99),
        verdict,
    )


def _without_empty(table: Table) -> Table:
    """``table`` without the columns in which no row has a figure."""
    kept = [place for place in range(len(table.columns)) if any(row[place] != NOTHING for row in table.rows)]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return Table(table.title, tuple(table.columns[place] for place in kept), rows, table.words)


def _mean_text(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(sum(known) / len(known)) if known else NOTHING
