"""`agent benchmark`: which engine on this device, measured so that it can be trusted."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from agent.benchmark.scenarios import SCENARIOS, Scenario
from agent.cli.options import PATH, package_directory
from agent.cli.signals import sigterm_as_ctrl_c
from agent.runtime.errors import AgentError, UsageError
from agent.runtime.secrets import redact
from engines.base import PRECISIONS, Precision
from engines.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from agent.benchmark.compare import Comparison
    from agent.benchmark.report import Model, Report
    from agent.benchmark.study import Request
    from engines.package import ModelPackage

_LARGEST_BATCH = 64
_WIDTH_ELSEWHERE = 160
_NUMBER = re.compile(r"[0-9]{1,4}\Z")


def _words(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))


def _batches(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    words = _words(_ctx, _param, value)
    if not words or any(not _NUMBER.match(word) or not 1 <= int(word) <= _LARGEST_BATCH for word in words):
        raise click.BadParameter(f"{value!r} is no list of batch sizes from 1 to {_LARGEST_BATCH}; give it like 1,4,8")
    return tuple(sorted({int(word) for word in words}))


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    sides = value.split("x")
    if len(sides) != 2 or any(not _NUMBER.match(side) or not 16 <= int(side) <= 8192 for side in sides):
        raise click.BadParameter(f"{value!r} is no size from 16x16 to 8192x8192; give it like 1280x720")
    return int(sides[0]), int(sides[1])


def _one_of(known: tuple[str, ...], values: tuple[str, ...], what: str) -> tuple[str, ...]:
    for value in values:
        if value not in known:
            raise UsageError(f"there is no {what} {value!r}; there are {', '.join(known)}")
    if not values:
        raise UsageError(f"no {what} was named; there are {', '.join(known)}")
    return values


def _pythons(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, sign, path = value.partition("=")
        if not sign or not Path(path).is_file():
            raise click.BadParameter(f"{value!r} is not ENGINE=PATH with the path of an interpreter that exists")
        found[name] = path
    return found


def _options(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
    from engines.strict_yaml import StrictYamlError, load_strict

    found: dict[str, object] = {}
    for value in values:
        name, sign, text = value.partition("=")
        try:
            parsed = load_strict(text, name=name).data
        except StrictYamlError as exc:
            raise click.BadParameter(f"{value!r}: {exc.message}") from exc
        if not sign or not isinstance(parsed, bool | int | float | str):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE; give it like threads=1")
        found[name] = parsed
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The command line."""

    packages: tuple[str, ...]
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    scenarios: tuple[str, ...]
    fps: float
    rounds: int
    is_quick: bool
    images: Path | None
    cameras: tuple[int, ...]
    clips: tuple[Path, ...]
    size: tuple[int, int]
    pythons: dict[str, str]
    options: dict[str, object]
    max_p99_ms: float | None
    max_watts: float | None
    json_path: Path | None
    html_path: Path | None
    md_path: Path | None
    png_path: Path | None
    csv_path: Path | None
    one_line: bool
    baseline: Path | None
    gates: tuple[str, ...]
    force: bool
    apply_path: Path | None
    model: str | None
    cache: Path | None


@click.group(invoke_without_command=True)
@click.option(
    "--package", "packages", multiple=True, default=("demo",), show_default="demo",
    help="Directory of a model package, or demo; several are measured one after the other.",
)  # fmt: skip
@click.option("--engines", default="all", show_default=True, callback=_words, help="Engines by name, or all.")
@click.option("--precisions", default="fp32,fp16,int8", show_default=True, callback=_words, help="Which to try.")
@click.option("--batch", "batches", default="1", show_default=True, callback=_batches, help="Sizes, like 1,4,8.")
@click.option(
    "--scenario",
    "scenarios",
    default="latency",
    show_default=True,
    callback=_words,
    help=f"{', '.join(SCENARIOS)}; several with commas.",
)
@click.option("--fps", type=click.FloatRange(0.1, 1000), default=30.0, show_default=True, help="Rhythm when paced.")
@click.option("--rounds", type=click.IntRange(2, 100), default=10, show_default=True, help="Turns of each engine.")
@click.option("--quick", "is_quick", is_flag=True, help="Seconds in place of minutes; marked as such.")
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Labelled pictures.")
@click.option("--cameras", default="1", show_default=True, callback=_batches, help="pipeline: how many, like 1,4.")
@click.option("--clip", "clips", type=PATH, multiple=True, help="pipeline: video to read.  [default: a pattern]")
@click.option("--size", default="1280x720", show_default=True, callback=_size, help="pipeline: size of the pattern.")
@click.option(
    "--python", "pythons", multiple=True, callback=_pythons, envvar="AGENT_BENCHMARK_PYTHON", metavar="ENGINE=PATH",
    help="Interpreter of an engine whose libraries are installed elsewhere.",
)  # fmt: skip
@click.option(
    "--option", "options", multiple=True, callback=_options, metavar="NAME=VALUE",
    help="Option of the engines, like threads=1.",
)  # fmt: skip
@click.option("--max-p99-ms", type=float, help="Recommend nothing slower.")
@click.option("--max-watts", type=float, help="Recommend nothing that takes more.")
@click.option("--json", "json_path", type=PATH, help="Write the report as JSON.")
@click.option("--html", "html_path", type=PATH, help="Write it as one self-contained page.")
@click.option("--md", "md_path", type=PATH, help="Write it as Markdown.")
@click.option("--png", "png_path", type=PATH, help="Draw it.")
@click.option("--csv", "csv_path", type=PATH, help="Write the times with perf_analyzer's columns, in microseconds.")
@click.option("--one-line", is_flag=True, help="Print one line per engine, as transformer-deploy does.")
@click.option("--baseline", type=PATH, help="Compare with this report afterwards.")
@click.option("--fail-if", "gates", multiple=True, metavar="GATE", help="With --baseline, like 'p99_ms>+10%'.")
@click.option("--force", is_flag=True, help="With --baseline: compare different environments all the same.")
@click.option("--apply", "apply_path", type=PATH, help="Write the recommendation into this configuration.")
@click.option("--model", help="With --apply: the model's key.  [default: those that use the package]")
@click.option("--cache", type=PATH, help="Where graphs and plans are kept.  [default: that of the agent]")
@click.pass_context
def benchmark(ctx: click.Context, /, **given: Any) -> int:
    """Measure every engine that can run on this device, and say which to use.

    Each runs in a process of its own, in turns with the others. Exit code 1 when a figure must not be used (busy
    machine, throttling, too few runs) or a gate of --fail-if breaks, 69 when nothing can be measured. With several
    packages each has a report of its own: the package's name is added to the names of the files. Where one fails the
    others are measured all the same, and the exit code is the highest.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    from agent.runtime import logs

    logs.configure(level="error")
    asked = Asked(**given)
    with sigterm_as_ctrl_c():
        baseline = _check(asked)
        if len(asked.packages) == 1:
            return _one_package(asked.packages[0], asked, baseline)
        # Also where the first one fails: the others' figures are as good without it.
        return max([_one_of_several(package, asked) for package in asked.packages])


def _one_of_several(package: str, asked: Asked) -> int:
    try:
        return _one_package(package, asked, None)
    except (AgentError, EngineError) as exc:
        click.echo(f"error: {package}: {redact(exc.message)}", err=True)
        return exc.exit_code


def _one_package(package: str, asked: Asked, baseline: Report | None) -> int:
    report = _measured(package, asked)
    _write(report, asked)
    _show(report, asked, package)
    # After the report, which is good also where the baseline cannot be compared.
    comparison = None if baseline is None else _compared(baseline, report, asked)
    if asked.apply_path is not None:
        _apply(report, asked, asked.apply_path, package)
    has_broken = comparison is not None and comparison.has_failed
    return 1 if report.invalid or has_broken else 0


@benchmark.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--fail-if", "gates", multiple=True, metavar="GATE", help="Exit code 1 if so, like 'p99_ms>+10%'.")
@click.option("--force", is_flag=True, help="Compare different environments all the same.")
def compare(*, first: Path, second: Path, gates: tuple[str, ...], force: bool) -> int:
    """Hold the report SECOND against FIRST: ratios with their intervals of 99 % confidence."""
    from agent.benchmark.compare import compare as hold_against
    from agent.benchmark.compare import parse_gate
    from agent.benchmark.report import load_report
    from agent.benchmark.terminal import print_comparison

    parsed = [parse_gate(gate) for gate in gates]
    comparison = hold_against(load_report(first), load_report(second), parsed, force=force)
    print_comparison(comparison, _console())
    return 1 if comparison.has_failed else 0


def _console() -> Console:
    from agent.cli.console import Console

    console = Console(soft_wrap=True)
    # A file or a pipe has no width: the tables are given the room that they need.
    return console if console.is_terminal else Console(soft_wrap=True, width=_WIDTH_ELSEWHERE)


def _check(asked: Asked) -> Report | None:
    """What is wrong with the command line is said before minutes are spent.

    Gives the report to compare with, which the new one may be written over.
    """
    from agent.benchmark.compare import parse_gate
    from agent.benchmark.report import load_report

    if asked.gates and asked.baseline is None:
        raise UsageError("--fail-if needs --baseline FILE, the report to compare with")
    if asked.baseline is not None and len(asked.packages) > 1:
        raise UsageError(f"--baseline is the report of one package, and --package names {len(asked.packages)}")
    if asked.model is not None and asked.apply_path is None:
        raise UsageError("--model says whose recommendation --apply writes; to measure another package use --package")
    if asked.model is not None and len(asked.packages) > 1:
        raise UsageError(f"--model is one model of the configuration, and --package names {len(asked.packages)}")
    if asked.options and asked.apply_path is not None:
        raise UsageError("--apply does not write options: measure without --option, or write them by hand")
    for gate in asked.gates:
        parse_gate(gate)
    baseline = None if asked.baseline is None else load_report(asked.baseline)
    _check_files(asked)
    return baseline


def _check_files(asked: Asked) -> None:
    from agent.benchmark.apply import check_can_apply
    from agent.benchmark.inputs import check_clips, check_pictures, check_target
    from engines.package import load_package

    found = [load_package(package_directory(package)) for package in asked.packages]
    if len({(one.name, one.version) for one in found}) < len(found):
        raise UsageError("two of the packages have the same name and version; their reports could not be told apart")
    for package in found:
        for path in (asked.json_path, asked.html_path, asked.md_path, asked.png_path, asked.csv_path):
            if path is not None:
                check_target(_place(path, package, asked))
        if asked.apply_path is not None:
            check_can_apply(asked.apply_path, package, model=asked.model)
    if asked.images is not None:
        check_pictures(asked.images, found)
    check_clips(asked.clips)


def _measured(package: str, asked: Asked) -> Report:
    from agent.benchmark.progress import shown_progress
    from agent.benchmark.study import run_study
    from agent.cli.console import Console

    request = _request(package, asked)
    with shown_progress(Console(stderr=True)) as progress:
        return run_study(request, progress)


def _request(package: str, asked: Asked) -> Request:
    from agent.benchmark.pipeline import PipelineRequest
    from agent.benchmark.recommend import Limits
    from agent.benchmark.study import Request
    from agent.config.loader import default_state_dir

    return Request(
        package_dir=package_directory(package),
        cache_dir=asked.cache or default_state_dir() / "cache",
        engines=() if asked.engines in ((), ("all",)) else asked.engines,
        precisions=cast("tuple[Precision, ...]", _one_of(PRECISIONS, asked.precisions, "precision")),
        batches=asked.batches,
        scenarios=cast("tuple[Scenario, ...]", _one_of(SCENARIOS, asked.scenarios, "scenario")),
        fps=asked.fps,
        rounds=asked.rounds,
        is_quick=asked.is_quick,
        command=shlex.join(["agent", *sys.argv[1:]]),
        pythons=asked.pythons,
        options=asked.options,
        images=asked.images,
        limits=Limits(max_p99_ms=asked.max_p99_ms, max_watts=asked.max_watts),
        pipeline=PipelineRequest(cameras=asked.cameras, clips=asked.clips, size=asked.size),
    )


def _compared(baseline: Report, report: Report, asked: Asked) -> Comparison:
    from agent.benchmark.compare import compare as hold_against
    from agent.benchmark.compare import parse_gate
    from agent.benchmark.terminal import print_comparison

    comparison = hold_against(baseline, report, [parse_gate(gate) for gate in asked.gates], force=asked.force)
    print_comparison(comparison, _console())
    return comparison


def _write(report: Report, asked: Asked) -> None:
    from agent.benchmark.chart import png_of
    from agent.benchmark.html import to_html
    from agent.benchmark.markdown import to_markdown
    from agent.benchmark.tables import perf_analyzer_csv

    texts: tuple[tuple[Path | None, Callable[[Report], str]], ...] = (
        (asked.json_path, lambda one: one.as_json()),
        (asked.html_path, to_html),
        (asked.md_path, to_markdown),
        (asked.csv_path, perf_analyzer_csv),
    )
    for path, text_of in texts:
        if path is not None:
            _place(path, report.model, asked).write_text(text_of(report), encoding="utf-8")
    if asked.png_path is not None:
        _place(asked.png_path, report.model, asked).write_bytes(png_of(report))


def _place(path: Path, model: Model | ModelPackage, asked: Asked) -> Path:
    """Where this package's report goes: of several each has a name of its own."""
    if len(asked.packages) == 1:
        return path
    return path.with_name(f"{path.stem}-{model.name}-{model.version}{path.suffix}")


def _show(report: Report, asked: Asked, package: str) -> None:
    from agent.benchmark.tables import one_liners
    from agent.benchmark.terminal import print_report

    console = _console()
    if not asked.one_line:
        print_report(report, console, package=package)
        return
    for line in one_liners(report):
        console.print(line, highlight=False, markup=False)
    for why in report.invalid:
        click.echo(f"not valid: {why}", err=True)


def _apply(report: Report, asked: Asked, path: Path, package_name: str) -> None:
    from agent.benchmark.apply import apply_to, remember_for
    from agent.benchmark.recommend import measurements_for
    from engines.package import load_package

    choice = report.recommendation
    if choice is None or choice.engine is None:
        raise UsageError(f"there is nothing to apply: {'nothing was measured' if choice is None else choice.reason}")
    if report.invalid and not asked.force:
        raise UsageError(
            f"{path} was left as it is: the figures must not be used ({report.invalid[0]}). Measure again on a quiet "
            "machine, or add --force"
        )
    package = load_package(package_directory(package_name))
    keys = apply_to(path, choice, package, model=asked.model)
    remember_for(path, keys, package, measurements_for(report.engines, choice))
    print(f"{path}: {', '.join(keys)} now runs {choice.engine} in {choice.precision}")
