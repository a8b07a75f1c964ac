"""The report: everything that was measured, and what is needed to judge it. Its JSON schema is ``benchmark/1``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from agent.runtime.errors import UsageError
from agent.tools.benchmark.conditions import Conditions
from agent.tools.benchmark.measure.accuracy import Accuracy
from agent.tools.benchmark.measure.target import BARE
from agent.tools.benchmark.scenarios import Case
from agent.tools.benchmark.statistics import Spread

SCHEMA = "benchmark/1"
_MAX_BYTES = 256 << 20
_MAX_NAMED = 3

Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One case on one engine.

    ``rounds_ms`` are the times of each round, thinned evenly where a round has many (the figures of ``spread`` are of
    all). ``stages`` come from the device's own events. ``warnings`` are for readers. ``invalid`` gives the
    reasons why the figures are not valid; it is empty if they are.
    """

    case: Case
    spread: Spread
    rounds_ms: tuple[tuple[float, ...], ...]
    warm_up: int
    wall_s: float
    throughput_hz: float
    cpu_ms_per_image: float
    cpu_rounds_ms: tuple[float, ...] = ()
    """The same of each round; empty in reports of earlier versions."""
    missed: int
    conditions: Conditions
    stages: dict[str, Spread] = field(default_factory=dict)
    images_per_joule: float | None = None
    to_bare: float | None = None
    """Median over that of the bare session in the same rounds; None where there is none to compare with."""
    above_bare_us: float | None = None
    warnings: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResult:
    """One engine in one precision, as read back from it. ``prepare_s`` is what was built before, load included."""

    name: str
    precision: str
    device: str
    max_batch: int
    placement: dict[str, int]
    versions: dict[str, str]
    degraded: str | None
    prepare_s: float
    load_ms: float
    own_bytes: int
    """Memory that opening it took."""
    peak_bytes: int
    """Peak of its whole process."""
    accuracy_check: dict[str, Value] | None
    kept_layers: tuple[str, ...]
    details: dict[str, Value]
    accuracy: Accuracy | None
    cases: tuple[CaseResult, ...]

    @property
    def label(self) -> str:
        """Engine and precision that ran."""
        return f"{'bare session' if self.name == BARE else self.name} {self.precision}"

    @property
    def is_bare(self) -> bool:
        """Whether it is the bare session, which is no choice."""
        return self.name == BARE

    @property
    def slowdown_ratio(self) -> float | None:
        """How much longer a call takes once the device is warm; None where nothing was soaked."""
        parts = {one.case.part: one.spread.p50_ms for one in self.cases if one.case.scenario == "soak"}
        return parts["sustained"] / parts["burst"] if {"burst", "sustained"} <= parts.keys() else None

    def result_of(self, case: Case) -> CaseResult | None:
        """The result for the same case, also if this engine ran it with another batch size."""
        return next((one for one in self.cases if one.case == case), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """An engine that was not measured, why, and what to do about it."""

    engine: str
    precision: str
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRow:
    """One stage of the agent's own path, in milliseconds."""

    stage: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """The agent's path from frame to subscriber. Times end where the subscriber has the message.

    ``end_to_end`` starts when the source begins to fetch the frame, ``from_hand`` when the frame is decoded.
    ``overhead_p50_ms`` is ``from_hand`` less the bare session's median of the same run, ``paced`` like the cameras.
    """

    name: str
    cameras: int
    source: str
    fps: float | None
    engine: str
    precision: str
    results: int
    wall_s: float
    throughput_hz: float
    end_to_end: Spread
    from_hand: Spread
    without_infer: Spread
    stages: tuple[StageRow, ...]
    bare: Spread | None
    overhead_p50_ms: float | None
    dropped: dict[str, int]
    lost_on_the_way: int
    cpu_ms_per_frame: float
    ready_s: float
    resident_bytes: int
    growth_bytes: int
    others_ratio: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The engine and precision to use. ``reason`` names the alternatives, or says why there is none."""

    engine: str | None
    precision: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What was served."""

    name: str
    version: str
    sha256: str
    width: int
    height: int
    classes: int
    images: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run of the benchmark."""

    schema: Literal["benchmark/1"] = "benchmark/1"
    agent: str
    started_at: str
    wall_s: float
    command: str
    is_quick: bool
    rounds: int
    environment: dict[str, object]
    clocks_locked: bool | None
    load_before: float
    load_after: float
    model: Model
    engines: tuple[EngineResult, ...]
    absent: tuple[Absent, ...]
    pipelines: tuple[PipelineResult, ...] = ()
    recommendation: Recommendation | None = None
    warnings: tuple[str, ...] = ()

    @property
    def invalid(self) -> tuple[str, ...]:
        """Why the run is not valid: each reason once, with its cases. Empty if it is valid."""
        return tuple(self._each_once([(e.label, r, r.invalid) for e in self.engines for r in e.cases]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings of all cases, each once with its cases."""
        return tuple(self._each_once([(e.label, r, r.warnings) for e in self.engines for r in e.cases]))

    def _each_once(self, said: Sequence[tuple[str, CaseResult, Sequence[str]]]) -> list[str]:
        about: dict[str, list[str]] = {}
        for label, result, texts in said:
            for text in texts:
                what, sign, figures = text.partition(" (")
                about.setdefault(what, []).append(f"{label} {result.case.name}{sign}{figures}")
        found = []
        for what, who in about.items():
            more = f"; and {len(who) - _MAX_NAMED} more" if len(who) > _MAX_NAMED else ""
            found.append(f"{what}: {'; '.join(who[:_MAX_NAMED])}{more}")
        return found

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values, with ``invalid`` as a list of its own."""
        return {**asdict(self), "invalid": list(self.invalid)}

    def as_json(self) -> str:
        """The form that ``load_report`` reads."""
        return json.dumps(self.as_dict(), indent=1)


def load_report(path: Path) -> Report:
    """Read a report that was written with ``--output FILE.json``.

    Raises:
        UsageError: it cannot be read, is no report of this version, or has figures that cannot be compared.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(
                f"{path} has {path.stat().st_size} bytes, but a report has less than {_MAX_BYTES}. "
                "Name a report of agent benchmark"
            )
        values = json.loads(path.read_bytes())
    except OSError as exc:
        raise UsageError(f"the report {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"{path} is not JSON: {exc}. Write one with: agent benchmark --output FILE.json") from exc
    found = values.get("schema") if isinstance(values, dict) else None
    if found != SCHEMA:
        raise UsageError(f"{path} has schema {found!r}, but this program reads {SCHEMA!r}. Measure again")
    values.pop("invalid", None)
    try:
        report = TypeAdapter(Report).validate_python(values)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path} is not a whole report: {where}: {first['msg']}. Measure again") from exc
    for engine in report.engines:
        for result in engine.cases:
            _check_figures(path, engine, result)
    return report


def _check_figures(path: Path, engine: EngineResult, result: CaseResult) -> None:
    """NaN, infinite and negative figures would pass every gate."""
    figures = {
        name: value for name, value in asdict(result.spread).items() if name.endswith("_ms") and name != "sd_ms"
    }
    times = [one for times in result.rounds_ms for one in times]
    figures |= {"throughput_hz": result.throughput_hz, "rounds_ms": min(times, default=0.0)}
    wrong = next((name for name, value in figures.items() if not 0 < value < math.inf), None)
    if wrong is None and not all(map(math.isfinite, times)):
        wrong = "rounds_ms"
    if wrong is not None:
        raise UsageError(
            f"{path} is not a whole report: {engine.label}, {result.case.name}: {wrong} is not a time or rate "
            "above 0. Measure again"
        )
