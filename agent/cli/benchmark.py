"""`agent benchmark`: measure engines on this device, and compare reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.io.numbers import Decimal, Whole
from agent.cli.io.options import ENGINE_OPTION, MAX_FILE_OPTION, PATH, package_directory
from agent.cli.io.signals import sigterm_as_ctrl_c
from agent.tools.benchmark.scenarios import SCENARIOS

if TYPE_CHECKING:
    from agent.cli.io.console import Console

_GATE_HELP = "Exit code 1 if this holds, like 'p99_ms>+10%' or 'p99_ms>20'."
_MAX_BATCH = 64
_WIDTH_ELSEWHERE = 160
_NUMBER = re.compile(r"[0-9]{1,4}\Z")


def _words(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in value.split(",") if word.strip()))


def _batches(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, ...]:
    words = _words(_ctx, _param, value)
    if not words or any(not _NUMBER.match(word) or not 1 <= int(word) <= _MAX_BATCH for word in words):
        raise click.BadParameter(f"{value!r} is no list of batch sizes from 1 to {_MAX_BATCH}; give it like 1,4,8")
    return tuple(sorted({int(word) for word in words}))


def _size(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    sides = value.split("x")
    if len(sides) != 2 or any(not _NUMBER.match(side) or not 16 <= int(side) <= 8192 for side in sides):
        raise click.BadParameter(f"{value!r} is no size from 16x16 to 8192x8192; give it like 1280x720")
    return int(sides[0]), int(sides[1])


def _pythons(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, sign, path = value.partition("=")
        if not sign or not Path(path).is_file():
            raise click.BadParameter(f"{value!r} is not ENGINE=PATH with the path of an interpreter that exists")
        found[name] = path
    return found


@click.group(invoke_without_command=True)
@click.option(
    "--package", "packages", multiple=True, default=("demo",),
    help="Directory of a model package, or demo. Repeat it to measure several.  [default: demo]",
)  # fmt: skip
@click.option("--engines", default="all", show_default=True, callback=_words, help="Engines by name, or all.")
@click.option(
    "--precisions", default="fp32,fp16,int8", show_default=True, callback=_words, help="Precisions to measure."
)
@click.option("--batch", "batches", default="1", show_default=True, callback=_batches, help="Batch sizes, like 1,4,8.")
@click.option(
    "--scenario",
    "scenarios",
    default="latency",
    show_default=True,
    callback=_words,
    help=f"One or more of {', '.join(SCENARIOS)}, separated by commas.",
)
@click.option("--fps", type=Decimal(0.1, 1000), default=30.0, show_default=True, help="Frame rate for paced runs.")
@click.option("--rounds", type=Whole(2, 100), default=10, show_default=True, help="Rounds per engine.")
@click.option(
    "--quick",
    "is_quick",
    is_flag=True,
    help="Measure each engine and precision for 7 s; the report says so.",
)
@click.option(
    "--full",
    "is_full",
    is_flag=True,
    help="Measure each engine and precision for 35 s, enough for p99.  [default: at most 90 s for all of them]",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Also measure accuracy on these images, one folder per label.",
)
@click.option(
    "--cameras", default="1", show_default=True, callback=_batches, help="pipeline: numbers of cameras, like 1,4."
)
@click.option("--clip", "clips", type=PATH, multiple=True, help="pipeline: video file to read.  [default: a pattern]")
@click.option("--size", default="1280x720", show_default=True, callback=_size, help="pipeline: size of the pattern.")
@click.option(
    "--python", "pythons", multiple=True, callback=_pythons, envvar="AGENT_BENCHMARK_PYTHON", metavar="ENGINE=PATH",
    help="Python interpreter for an engine whose libraries are installed in another environment.",
)  # fmt: skip
@ENGINE_OPTION
@MAX_FILE_OPTION
@click.option("--max-p99-ms", type=Decimal(0), help="Do not recommend an engine with a higher p99.")
@click.option("--max-watts", type=Decimal(0), help="Do not recommend an engine that draws more power.")
@click.option(
    "--output", "outputs", type=PATH, multiple=True, metavar="FILE",
    help="Also write the report to FILE: .json, .html, .md, .png (needs matplotlib) or .csv. Repeat it for several.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--one-line", is_flag=True, help="Print one line per engine and case.")
@click.option("--baseline", type=PATH, help="Compare with this earlier report (.json).")
@click.option("--fail-if", "gates", multiple=True, metavar="GATE", help=f"With --baseline: {_GATE_HELP}")
@click.option("--force", is_flag=True, help="Compare different environments, and apply figures that are not valid.")
@click.option("--apply", "apply_path", type=PATH, help="Write the recommendation into this configuration.")
@click.option("--model", help="With --apply: key of the model.  [default: those that use the package]")
@click.option("--cache", type=PATH, help="Folder for graphs and plans.  [default: the agent's]")
@click.pass_context
def benchmark(ctx: click.Context, /, packages: tuple[str, ...], engines: tuple[str, ...], **given: Any) -> int:
    """Measure every engine that can run on this device, and recommend one.

    Each engine runs in its own process; rounds of all engines are interleaved. Several packages give one report each,
    with the package's name added to the names of the files.

    Exit code 0; 1 when a figure is not valid (busy machine, throttling, too few runs) or a --fail-if gate breaks; 69
    when nothing can be measured. Of several packages all are measured, and the highest exit code counts.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    from agent.cli.io.console import Console
    from agent.runtime import logs
    from agent.tools.benchmark.job import Benchmark, Job

    logs.configure(level="error")
    job = Job(
        packages=tuple((name, package_directory(name)) for name in packages),
        engines=() if engines in ((), ("all",)) else engines,
        **given,
    )
    with sigterm_as_ctrl_c():
        return Benchmark(job, out=_console(), err=Console(stderr=True, soft_wrap=True)).run()


@benchmark.command()
@click.argument("first", type=PATH)
@click.argument("second", type=PATH)
@click.option("--fail-if", "gates", multiple=True, metavar="GATE", help=_GATE_HELP)
@click.option("--force", is_flag=True, help="Compare different environments, and figures that are not valid.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(*, first: Path, second: Path, gates: tuple[str, ...], force: bool, as_json: bool) -> int:
    """Compare two reports (ratios with 99 % confidence intervals).

    Exit code 1 when a --fail-if gate breaks, or a report is not valid and --force is not given.
    """
    from agent.tools.benchmark.compare import compare as compare_reports
    from agent.tools.benchmark.compare import parse_gate
    from agent.tools.benchmark.render.terminal import print_comparison
    from agent.tools.benchmark.report import load_report

    parsed = [parse_gate(gate) for gate in gates]
    comparison = compare_reports(load_report(first), load_report(second), parsed, force=force)
    if as_json:
        print(json.dumps(comparison.as_dict(), indent=2))
    else:
        print_comparison(comparison, _console())
    return 1 if comparison.has_failed or not (force or comparison.is_valid) else 0


def _console() -> Console:
    from agent.cli.io.console import Console

    console = Console(soft_wrap=True)
    # A file or a pipe has no width: the tables get the room that they need.
    return console if console.is_terminal else Console(soft_wrap=True, width=_WIDTH_ELSEWHERE)
