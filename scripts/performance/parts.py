"""The parts of scripts/measure: each returns the Markdown for its block in docs/performance.md or docs/scale.md."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from agent.demo import demo_package
from agent.tools.benchmark.pipeline.run import PipelineRequest, Setup, clip_setup
from agent.tools.benchmark.render.chart import png_of
from agent.tools.benchmark.render.html import to_html
from agent.tools.benchmark.render.markdown import to_markdown
from agent.tools.benchmark.render.progress import shown_progress
from agent.tools.benchmark.report import CaseResult, EngineResult, PipelineResult, Report, load_report
from agent.tools.benchmark.scenarios import Scenario
from agent.tools.benchmark.statistics import REQUIRED_RUNS, Spread
from agent.tools.benchmark.study import Request, run_study
from engines.base import Precision
from engines.package.load import load_package
from scripts.performance import agent_rows, loadgen_agreement, quality_rows
from scripts.performance.environment import child_environment
from scripts.performance.make_models import MODELS, write_package
from scripts.performance.page import bar_lines, table
from scripts.performance.scale.axes import AXES, Axis, Place
from scripts.performance.scale.chart import draw
from scripts.performance.scale.words import lines_of
from scripts.performance.verdict import LoadWatch, Row

_FPS = 30.0
_BOTH: tuple[Precision, ...] = ("fp32", "int8")
_CLIPS = {"720p": ("1280x720", "4M"), "1080p": ("1920x1080", "8M")}
_ABOUT_PATH = (
    "Milliseconds, p50 / p99; `*`: fewer than 662 results. The subscriber is a process of its own behind a real "
    "broker, and the bare session runs at the same rate before and after."
)
_ABOUT_ENGINES = (
    "`not valid` is the report's own verdict on that case, and the last column says why. CPU ms is processor time of "
    "the process in the closed case, not time on the clock, so it stands where the clock could not be trusted."
)
_REPORT_FORMS = (("page", "html"), ("image", "png"), ("text", "md"), ("data", "json"))
_SETTINGS = ("threads", "threads_wait", "int8_form")
_ENGINE_REPORTS = ("conveyor", "mobilenet", "resnet", "mobilenet-torch")
_PATH_MODELS = ("conveyor", "mobilenet", "resnet")
_NOT_VALID = "not valid"
_STAGES = 1
"""Number of results of the bundled model whose stages are shown one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where things are: ``work`` keeps models, clips and graphs from run to run, ``reports`` gets the full reports.

    ``pythons`` are interpreters of environments that have more, by what they have: openvino, torch, loadgen.
    """

    work: Path
    reports: Path
    is_quick: bool
    pythons: dict[str, str] = field(default_factory=dict)

    @property
    def cache(self) -> Path:
        """Graphs and certificates."""
        return self.work / "cache"

    def package(self, name: str) -> Path:
        """Return the bundled package, or a generated one."""
        if name == "conveyor":
            return demo_package()
        folder = self.work / "models" / f"{name}-1.0.0"
        if not (folder / "model.yaml").is_file():
            write_package(MODELS[name](), name, self.work / "models")
        return folder

    def torch_package(self, name: str) -> Path | None:
        """Return the same model for PyTorch; None if no environment has PyTorch."""
        folder = self.work / "models" / f"{name}-torch-1.0.0"
        if "torch" not in self.pythons:
            return None
        if not (folder / "model.yaml").is_file():
            command = ["-m", "scripts.performance.torch_model", str(self.package(name)), str(self.work / "models")]
            subprocess.run([self.pythons["torch"], *command], check=True, env=child_environment())
        return folder

    def clip(self, name: str) -> Path:
        """Return a synthetic H.264 clip of 20 s."""
        path = self.work / f"{name}.mp4"
        if not path.is_file():
            size, rate = _CLIPS[name]
            source = f"testsrc2=size={size}:rate=30:duration=20"
            made = path.with_suffix(".part.mp4")
            subprocess.run(
                ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "veryfast",
                 "-b:v", rate, "-pix_fmt", "yuv420p", str(made)],
                check=True,
            )  # fmt: skip
            made.rename(path)
        return path


@dataclass(frozen=True, slots=True)
class Part:
    """One place in ``page``, a file of docs. ``prepare`` is not measured; ``run`` returns the lines."""

    prepare: Callable[[Setting], object]
    run: Callable[[Setting, LoadWatch], Iterable[str]]
    page: str = "performance.md"


def rows(setting: Setting, watch: LoadWatch) -> list[str]:
    """Single steps and figures of the whole agent, each with its bar."""
    package = setting.package("conveyor")
    steps, lengths = quality_rows.Lengths(), agent_rows.Lengths()
    if setting.is_quick:
        steps = quality_rows.Lengths(hot=140, paced=35, handed_over=100)
        lengths = agent_rows.Lengths(paced_s=8.0, overload_s=6.0, outage_s=8.0, frames=1000, bare_s=1.0)
    loaded = load_package(package)
    handed_over = quality_rows.hand_overs(loaded, setting.cache, steps)
    found: list[Row] = [
        *quality_rows.engine_rows(loaded, load_package(setting.package("mobilenet")), setting.cache, steps),
        *quality_rows.step_rows(loaded, steps),
        *handed_over.rows,
        *agent_rows.agent_rows(
            package, setting.package("resnet34"), setting.cache, lengths, hand_over=handed_over.paced
        ),
    ]
    found.sort(key=_row_number)
    return [*bar_lines(found, watch.load()), "p50 / p99, in µs where no unit stands; `*`: fewer than 662 runs.", ""]


def _row_number(row: Row) -> int:
    first = row.name.split(" ", 1)[0]
    return int(first[1:]) if first[0] == "Q" and first[1:].isdigit() else 99


def engines(setting: Setting, _: LoadWatch) -> list[str]:
    """Every engine that can run here, on three models."""
    reports: dict[str, Report] = {}
    pythons = {"ort-openvino": setting.pythons["openvino"]} if "openvino" in setting.pythons else {}
    studies: list[tuple[str, Path, tuple[str, ...], tuple[int, ...]]] = [
        ("conveyor", setting.package("conveyor"), ("ort-cpu", *pythons), (1, 4)),
        ("mobilenet", setting.package("mobilenet"), ("ort-cpu", *pythons), (1,)),
        ("resnet", setting.package("resnet"), ("ort-cpu",), (1,)),
    ]
    torch = setting.torch_package("mobilenet")
    if torch is not None:
        studies.append(("mobilenet-torch", torch, ("torch",), (1,)))
        pythons["torch"] = setting.pythons["torch"]
    studies = [studies[0], *studies[3:]] if setting.is_quick else studies
    for name, package, names, batches in studies:
        precisions: tuple[Precision, ...] = _BOTH if names != ("torch",) else ("fp32",)
        report = _study(setting, package, ("latency",), names, precisions, batches=batches, pythons=pythons)
        _write(report, setting.reports / name)
        reports[name] = report
    return engine_tables(reports)


def engine_tables(reports: Mapping[str, Report]) -> list[str]:
    """The tables of the part `engines`, from its reports by the stem of their files.

    The verdict of a report travels with its figures: one that is not valid is left out, and its row says why.
    """
    columns = ("model", "engine", "paced p50 / p99", "closed p50 / p99", "img/s", "CPU ms", "× bare, paced", "top-1")
    lines = [_engine_line(report.model.name, engine) for report in reports.values() for engine in report.engines]
    served = {engine.name for report in reports.values() for engine in report.engines}
    absent = [engine for engine in ("ort-openvino", "torch") if engine not in served]
    words = f" Not here: {', '.join(absent)} (no environment with it)." if absent else ""
    return [
        *table((*columns, "settings", "verdict"), lines, words=2),
        f"Milliseconds, batch 1, paced at {_FPS:g} a second.{words} Batches and spreads are in the reports.",
        _ABOUT_ENGINES,
        "",
        *_report_lines([*reports]),
    ]


def _engine_line(model: str, engine: EngineResult) -> list[str]:
    paced = next((one for one in engine.cases if one.case.mode == "paced"), None)
    closed = next((one for one in engine.cases if one.case.mode == "closed" and one.case.batch == 1), None)
    agreement = engine.accuracy_check.get("top1_agreement") if engine.accuracy_check else None
    settings = [f"{name} {engine.details[name]}" for name in _SETTINGS if name in engine.details]
    return [
        model,
        engine.label,
        _valid(paced, lambda case: _both(case.spread)),
        _valid(closed, lambda case: _both(case.spread)),
        _valid(closed, lambda case: f"{case.throughput_hz:.0f}"),
        f"{closed.cpu_ms_per_image:.2f}" if closed else "–",
        "–" if paced is None or paced.to_bare is None else _valid(paced, lambda case: f"{case.to_bare:.3f}"),
        f"{agreement:.3f}" if isinstance(agreement, float | int) else "–",
        ", ".join(settings) or "–",
        "; ".join(_reasons([paced, closed])) or "valid",
    ]


def _valid(case: CaseResult | None, figure: Callable[[CaseResult], str]) -> str:
    """A figure of a case; where the report says that it is not valid, that instead."""
    if case is None:
        return "–"
    return _NOT_VALID if case.invalid else figure(case)


def _reasons(cases: Sequence[CaseResult | None]) -> Iterator[str]:
    for case in cases:
        if case is not None and case.invalid:
            yield f"{case.case.mode}: {', '.join(case.invalid)}"


def path(setting: Setting, _: LoadWatch) -> list[str]:
    """The agent from camera to subscriber, on three models."""
    reports: dict[str, Report] = {}
    names = _PATH_MODELS if not setting.is_quick else ("mobilenet",)
    for name in names:
        precisions = _BOTH if not setting.is_quick else _BOTH[:1]
        setups = _setups(setting)
        report = _study(setting, setting.package(name), ("pipeline",), ("ort-cpu",), precisions, setups=setups)
        _write(report, setting.reports / f"path-{name}")
        reports[f"path-{name}"] = report
    return path_tables(reports)


def path_tables(reports: Mapping[str, Report]) -> list[str]:
    """The tables of the part `path`, from its reports by the stem of their files."""
    lines = [_path_line(report.model.name, one) for report in reports.values() for one in report.pipelines]
    first = next(iter(reports.values()))
    columns = ("model", "cameras", "results/s", "in hand → subscriber", "all but inference", "bare session",
               "above bare p50", "CPU ms a frame", "ready s", "resident MiB", "dropped")  # fmt: skip
    return [
        *table(columns, lines, words=2),
        _ABOUT_PATH,
        "",
        *_stage_lines(first.pipelines[:_STAGES]),
        *_report_lines([*reports]),
    ]


def _setups(setting: Setting) -> tuple[Setup, ...]:
    small, large = setting.clip("720p"), setting.clip("1080p")
    if setting.is_quick:
        return (
            clip_setup(small, cameras=1, fps=_FPS, seconds=4.0),
            clip_setup(large, cameras=4, fps=_FPS, seconds=3.0),
        )
    return (
        clip_setup(small, cameras=1, fps=_FPS, seconds=23.0),
        clip_setup(small, cameras=1, fps=None, seconds=5.0),
        clip_setup(small, cameras=4, fps=_FPS, seconds=6.0),
        clip_setup(large, cameras=1, fps=_FPS, seconds=6.0),
        clip_setup(large, cameras=4, fps=_FPS, seconds=6.0),
    )


def _path_line(model: str, one: PipelineResult) -> list[str]:
    pace = "unpaced" if one.fps is None else f"{one.fps:g} fps"
    drops = ", ".join(f"{count} {reason}" for reason, count in one.dropped.items())
    return [
        f"{model} {one.precision}",
        f"{one.cameras} × {one.source.removesuffix('.mp4')}, {pace}",
        f"{one.throughput_hz:.1f}",
        _both(one.from_hand),
        _both(one.without_infer),
        _both(one.bare) if one.bare else "–",
        f"{one.overhead_p50_ms:.3f}" if one.overhead_p50_ms is not None else "–",
        f"{one.cpu_ms_per_frame:.2f}",
        f"{one.ready_s:.2f}",
        f"{one.resident_bytes / 2**20:.0f}",
        drops or "0",
    ]


def _stage_lines(results: Sequence[PipelineResult]) -> list[str]:
    lines = []
    for one in results:
        lines += [f"{one.name}, stage by stage:", ""]
        cells = [[f"{value:.3f}" for value in (row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms)] for row in one.stages]
        named = [[row.stage, *values] for row, values in zip(one.stages, cells, strict=True)]
        lines += table(("stage", "p50 ms", "p95", "p99", "max"), named)
    return lines


def loadgen(setting: Setting, watch: LoadWatch) -> list[str]:
    """Our loop and MLPerf's on the same session."""
    if "loadgen" not in setting.pythons:
        return [
            "Not measured: mlcommons-loadgen cannot be installed on this machine (it has wheels for x86-64 alone).",
            "",
        ]
    package = setting.package("mobilenet")
    seconds, rounds = (0.5, 6) if setting.is_quick else (0.8, 120)
    answer = subprocess.run(
        [setting.pythons["loadgen"], "-m", "scripts.performance.loadgen_agreement", "--package", str(package),
         "--cache", str(setting.cache), "--seconds", str(seconds), "--rounds", str(rounds)],
        check=True, capture_output=True, text=True, env=child_environment(),
    )  # fmt: skip
    pairs = json.loads(answer.stdout.splitlines()[-1])
    load, lines = watch.load(), []
    for name in ("p50", "p90", "p99"):
        ours, theirs = (median(pair[side][name] for pair in pairs) for side in (0, 1))
        ratio = loadgen_agreement.agreement_of(pairs, name)
        verdict = ratio.verdict(load) if name != "p99" else "–"
        interval, bar = f"{ratio.low:.3f} to {ratio.high:.3f}", "1 ± 0.03" if name != "p99" else "–"
        lines.append([name, f"{ours:.3f}", f"{theirs:.3f}", f"{ratio.value:.3f}", interval, bar, verdict])
    columns = ("percentile", "ours ms", "LoadGen ms", "ratio", "99 % interval", "bar", "verdict")
    words = f"MobileNetV2 shape, {rounds} rounds of {seconds:g} s: medians of each side, and the median of the ratios."
    return [*table(columns, lines), words, ""]


def _scale(name: str, axis: Axis) -> Part:
    """One axis of docs/scale.md, with its picture."""

    def prepare(setting: Setting) -> None:
        axis.prepare(Place(setting.work), is_quick=setting.is_quick)

    def run(setting: Setting, watch: LoadWatch) -> list[str]:
        seconds = 3.0 if setting.is_quick else 10.0
        points = axis.points(Place(setting.work), is_quick=setting.is_quick, seconds=seconds)
        draw(setting.reports.parent / "images" / f"{name}.png", axis, points)
        return lines_of(name, axis, points, watch.load())

    return Part(prepare, run, page="scale.md")


def _study(
    setting: Setting,
    package: Path,
    scenarios: tuple[Scenario, ...],
    names: tuple[str, ...],
    precisions: tuple[Precision, ...],
    *,
    batches: tuple[int, ...] = (1,),
    pythons: dict[str, str] | None = None,
    setups: tuple[Setup, ...] = (),
) -> Report:
    request = Request(
        package_dir=package,
        cache_dir=setting.cache,
        engines=names,
        precisions=precisions,
        batches=batches,
        scenarios=scenarios,
        fps=_FPS,
        rounds=2 if setting.is_quick else 10,
        is_quick=setting.is_quick,
        command=f"scripts/measure --only {'path' if setups else 'engines'}",
        pythons={name: python for name, python in (pythons or {}).items() if name in names},
        pipeline=PipelineRequest(setups=setups),
    )
    with shown_progress(Console(stderr=True)) as progress:
        return run_study(request, progress)


def _write(report: Report, stem: Path) -> None:
    """Write the full report as page, image, text and data."""
    compact = json.dumps(json.loads(report.as_json()), separators=(",", ":"))
    stem.with_suffix(".json").write_text(compact, encoding="utf-8")
    stem.with_suffix(".html").write_text(to_html(report), encoding="utf-8")
    stem.with_suffix(".md").write_text(to_markdown(report), encoding="utf-8")
    stem.with_suffix(".png").write_bytes(png_of(report))


def tables_from_reports(folder: Path) -> dict[str, list[str]]:
    """The tables of `engines` and `path` from the reports in ``folder``, without measuring.

    Raises:
        UsageError: a report is missing or cannot be read.
    """
    return {
        "engines": engine_tables({stem: load_report(folder / f"{stem}.json") for stem in _ENGINE_REPORTS}),
        "path": path_tables({f"path-{name}": load_report(folder / f"path-{name}.json") for name in _PATH_MODELS}),
    }


def _report_lines(stems: Sequence[str]) -> list[str]:
    """Links to the full reports."""
    links = [[f"[{words}](benchmarks/{stem}.{ending})" for words, ending in _REPORT_FORMS] for stem in stems]
    return table(
        ("report", "", "", "", ""), [[stem, *found] for stem, found in zip(stems, links, strict=True)], words=5
    )


def _both(spread: Spread) -> str:
    mark = "\\*" if spread.n < REQUIRED_RUNS["p99"] else ""
    return f"{spread.p50_ms:.3f} / {spread.p99_ms:.3f}{mark}"


def _clips_and(*names: str) -> Callable[[Setting], object]:
    return lambda setting: [*map(setting.package, names), *map(setting.clip, _CLIPS)]


PARTS = {
    "rows": Part(_clips_and("mobilenet", "resnet34"), rows),
    "engines": Part(
        lambda setting: [_clips_and("mobilenet", "resnet")(setting), setting.torch_package("mobilenet")], engines
    ),
    "path": Part(_clips_and("mobilenet", "resnet"), path),
    "loadgen": Part(_clips_and("mobilenet"), loadgen),
    **{name: _scale(name, axis) for name, axis in AXES.items()},
}
GROUPS = {"scale": tuple(AXES)}
"""Names for several parts at once."""
