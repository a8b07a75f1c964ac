"""What ``agent benchmark`` does with its options: check, measure, write, show, compare, apply."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console

from agent.config.state_dir import default_cache_dir
from agent.runtime.errors import AgentError, UsageError
from agent.runtime.secrets import redact
from agent.runtime.terminal import escaped
from agent.tools.benchmark.apply import apply_to, check_can_apply, remember_for
from agent.tools.benchmark.compare import Comparison, compare, parse_gate
from agent.tools.benchmark.inputs import check_clips, check_images
from agent.tools.benchmark.pipeline.run import PipelineRequest
from agent.tools.benchmark.recommend import Limits, measurements_for
from agent.tools.benchmark.render.outputs import check_output, write_output
from agent.tools.benchmark.render.progress import shown_progress
from agent.tools.benchmark.render.tables import one_liners
from agent.tools.benchmark.render.terminal import print_comparison, print_report
from agent.tools.benchmark.report import Model, Report, load_report
from agent.tools.benchmark.scenarios import SCENARIOS, Scenario
from agent.tools.benchmark.study import Request, run_study
from engines import PRECISIONS, EngineError, ModelPackage, Precision, load_unknown_package

_WITHIN_S = 90.0
"""Unless --full: with opening the engines, an answer within two minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The options of the command. ``packages`` are as they were named, with their directories; no ``engines``: all."""

    packages: tuple[tuple[str, Path], ...]
    engines: tuple[str, ...]
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    scenarios: tuple[str, ...]
    fps: float
    rounds: int
    is_quick: bool
    is_full: bool
    images: Path | None
    cameras: tuple[int, ...]
    clips: tuple[Path, ...]
    size: tuple[int, int]
    pythons: dict[str, str]
    options: dict[str, object]
    max_file_mib: int
    max_p99_ms: float | None
    max_watts: float | None
    outputs: tuple[Path, ...]
    as_json: bool
    one_line: bool
    baseline: Path | None
    gates: tuple[str, ...]
    force: bool
    apply_path: Path | None
    model: str | None
    cache: Path | None


class Benchmark:
    """One call of the command. Results go to ``out``, progress and errors to ``err``."""

    def __init__(self, job: Job, *, out: Console, err: Console) -> None:
        self._job = job
        self._out = out
        self._err = err
        self._reports: list[Report] = []

    def run(self) -> int:
        """Measure every package; gives the exit code: 0, 1 for an invalid report or a broken gate, or an error's.

        Raises:
            AgentError, EngineError: the options cannot be carried out, or the only package cannot be measured.
        """
        baseline = self._check()
        packages = self._job.packages
        if len(packages) == 1:
            return self._one_package(*packages[0], baseline)
        # A package that fails does not keep the next one from being measured.
        code = max([self._one_of_several(*package) for package in packages])
        if self._job.as_json:
            self._print_json([report.as_dict() for report in self._reports])
        return code

    def _one_of_several(self, name: str, package: Path) -> int:
        try:
            return self._one_package(name, package, None)
        except (AgentError, EngineError) as exc:
            self._say(self._err, f"error: {name}: {redact(exc.message)}")
            return exc.exit_code

    def _one_package(self, name: str, package: Path, baseline: Report | None) -> int:
        job = self._job
        with shown_progress(self._err) as progress:
            report = run_study(self._request(package), progress)
        for path in job.outputs:
            write_output(report, self._place(path, report.model))
        self._reports.append(report)
        if not job.as_json:
            self._show(report, name)
        elif len(job.packages) == 1:
            self._print_json(report.as_dict())
        # After the report, which is good even if the baseline cannot be compared.
        comparison = None if baseline is None else self._compared(baseline, report)
        if job.apply_path is not None:
            self._apply(report, job.apply_path, package)
        has_broken = comparison is not None and comparison.has_failed
        return 1 if report.invalid or has_broken else 0

    def _check(self) -> Report | None:
        """Refuse wrong options before minutes are spent.

        Gives the report to compare with, because the new one may be written over it.
        """
        job = self._job
        if job.is_quick and job.is_full:
            raise UsageError("--quick and --full both choose the length; give one of them")
        if job.as_json and job.one_line:
            raise UsageError("--json and --one-line both choose what is printed; give one of them")
        if job.gates and job.baseline is None:
            raise UsageError("--fail-if needs --baseline FILE, the report to compare with")
        if job.baseline is not None and len(job.packages) > 1:
            raise UsageError(
                f"--baseline is the report of one package, but --package names {len(job.packages)}. Give one"
            )
        if job.model is not None and job.apply_path is None:
            raise UsageError("--model is for --apply: the model to write to. To measure another package use --package")
        if job.model is not None and len(job.packages) > 1:
            raise UsageError(
                f"--model is one model of the configuration, but --package names {len(job.packages)}. Give one"
            )
        if job.options and job.apply_path is not None:
            raise UsageError("--apply does not write options: measure without --option, or write them by hand")
        for gate in job.gates:
            parse_gate(gate)
        baseline = None if job.baseline is None else load_report(job.baseline)
        self._check_files()
        return baseline

    def _check_files(self) -> None:
        job = self._job
        found = [self._read(package) for _, package in job.packages]
        if len({(one.name, one.version) for one in found}) < len(found):
            raise UsageError("two packages have the same name and version; their reports would have the same name")
        for package in found:
            for path in job.outputs:
                check_output(self._place(path, package))
            if job.apply_path is not None:
                check_can_apply(job.apply_path, package, model=job.model)
        if job.images is not None:
            check_images(job.images, found)
        check_clips(job.clips)

    def _request(self, package: Path) -> Request:
        job = self._job
        return Request(
            package_dir=package,
            cache_dir=self._cache_dir(),
            engines=job.engines,
            precisions=cast("tuple[Precision, ...]", _known(PRECISIONS, job.precisions, "precision")),
            batches=job.batches,
            scenarios=cast("tuple[Scenario, ...]", _known(SCENARIOS, job.scenarios, "scenario")),
            fps=job.fps,
            rounds=job.rounds,
            is_quick=job.is_quick,
            within_s=math.inf if job.is_full else _WITHIN_S,
            command=shlex.join(["agent", *sys.argv[1:]]),
            pythons=job.pythons,
            options=job.options,
            images=job.images,
            max_file_mib=job.max_file_mib,
            limits=Limits(max_p99_ms=job.max_p99_ms, max_watts=job.max_watts),
            pipeline=PipelineRequest(cameras=job.cameras, clips=job.clips, size=job.size),
        )

    def _read(self, directory: Path) -> ModelPackage:
        return load_unknown_package(directory, self._cache_dir(), max_bytes=self._job.max_file_mib << 20)

    def _cache_dir(self) -> Path:
        return self._job.cache or default_cache_dir()

    def _place(self, path: Path, model: Model | ModelPackage) -> Path:
        """Where the report of this package goes: with several packages, their names are added to the file's name."""
        if len(self._job.packages) == 1:
            return path
        return path.with_name(f"{path.stem}-{model.name}-{model.version}{path.suffix}")

    def _show(self, report: Report, package: str) -> None:
        if not self._job.one_line:
            print_report(report, self._out, package=package)
            return
        for line in one_liners(report):
            self._say(self._out, line)
        for why in report.invalid:
            self._say(self._err, f"not valid: {why}")

    def _compared(self, baseline: Report, report: Report) -> Comparison:
        gates = [parse_gate(gate) for gate in self._job.gates]
        comparison = compare(baseline, report, gates, force=self._job.force)
        # Standard output holds nothing but JSON where that is asked for.
        print_comparison(comparison, self._err if self._job.as_json else self._out)
        return comparison

    def _apply(self, report: Report, path: Path, directory: Path) -> None:
        choice = report.recommendation
        if choice is None or choice.engine is None:
            why = "nothing was measured" if choice is None else choice.reason
            raise UsageError(f"there is nothing to apply: {why}")
        if report.invalid and not self._job.force:
            # The exit code is 1, as for every report that is not valid.
            self._say(
                self._err,
                f"error: {path} was not changed: the figures are not valid ({report.invalid[0]}). Measure again on a "
                "quiet machine, or add --force",
            )
            return
        package = self._read(directory)
        keys = apply_to(path, choice, package, model=self._job.model)
        remember_for(path, keys, package, measurements_for(report.engines, choice))
        words = f"{path}: {', '.join(keys)} now runs {choice.engine} in {choice.precision}"
        self._say(self._err if self._job.as_json else self._out, words)

    def _print_json(self, document: object) -> None:
        print(escaped(json.dumps(document, indent=1)), file=self._out.file)

    @staticmethod
    def _say(console: Console, text: str) -> None:
        console.print(text, highlight=False, markup=False)


def _known(known: tuple[str, ...], values: tuple[str, ...], what: str) -> tuple[str, ...]:
    for value in values:
        if value not in known:
            raise UsageError(f"there is no {what} {value!r}; there are {', '.join(known)}")
    if not values:
        raise UsageError(f"no {what} was named; there are {', '.join(known)}")
    return values
