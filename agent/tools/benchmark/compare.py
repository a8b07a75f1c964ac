"""Compares two reports: ratios with confidence intervals, and gates for continuous integration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from agent.runtime.errors import UsageError
from agent.tools.benchmark.report import CaseResult, EngineResult, Report
from agent.tools.benchmark.statistics import Ratio, ratio_of

MIN_RATIO = 0.02
"""Closer runs count as equal even if their intervals differ: the harness is no more precise than this."""

_METRICS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "max_ms", "throughput_hz")
_PERCENTS = {"p50_ms": 50, "p90_ms": 90, "p95_ms": 95, "p99_ms": 99}
_GATE = re.compile(r"\s*([a-z0-9_]+)\s*([<>])\s*([-+]?\d+(?:\.\d+)?)\s*(%?)\s*\Z")
_SAME_MACHINE = (
    "board", "l4t", "power_mode", "architecture", "cpu", "cpu_cores", "gpus", "driver", "python", "onnxruntime",
    "tensorrt", "torch",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """A limit such as ``p99_ms>+10%`` (relative to the first report) or ``p99_ms>20`` (of the second alone)."""

    text: str
    metric: str
    sign: Literal["<", ">"]
    limit: float
    is_relative: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One case of one engine in both reports; ratios are second over first. ``failed`` names the gates it breaks."""

    engine: str
    case: str
    first: CaseResult
    second: CaseResult
    p50: Ratio
    p99: Ratio
    failed: tuple[str, ...] = ()

    @property
    def verdict(self) -> Literal["slower", "faster", "same"]:
        """The verdict on the medians: different if the interval excludes 1 and the difference is above 2 %."""
        if not self.p50.is_different or abs(self.p50.value - 1.0) < MIN_RATIO:
            return "same"
        return "slower" if self.p50.value > 1.0 else "faster"

    def as_dict(self) -> dict[str, object]:
        """The line as JSON values."""
        return {
            "engine": self.engine,
            "case": self.case,
            "first_p50_ms": self.first.spread.p50_ms,
            "second_p50_ms": self.second.spread.p50_ms,
            "p50_ratio": asdict(self.p50),
            "p99_ratio": asdict(self.p99),
            "verdict": self.verdict,
            "failed": list(self.failed),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of two reports. ``differences`` are facts in which the environments disagree.

    ``invalid_first`` and ``invalid_second`` say why one of the reports is not valid.
    """

    lines: tuple[Line, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    differences: tuple[str, ...]
    invalid_first: tuple[str, ...]
    invalid_second: tuple[str, ...]

    @property
    def has_failed(self) -> bool:
        """Whether a gate is broken."""
        return any(line.failed for line in self.lines)

    @property
    def is_valid(self) -> bool:
        """Whether both reports are: figures of one that is not prove nothing."""
        return not self.invalid_first and not self.invalid_second

    def as_dict(self) -> dict[str, object]:
        """The comparison as JSON values; ratios are second over first with their 99 % confidence interval."""
        return {
            "lines": [line.as_dict() for line in self.lines],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "differences": list(self.differences),
            "invalid_first": list(self.invalid_first),
            "invalid_second": list(self.invalid_second),
            "valid": self.is_valid,
            "failed": self.has_failed,
        }


def parse_gate(text: str) -> Gate:
    """Read one gate.

    Raises:
        UsageError: it is not a gate; the message shows how one is written.
    """
    match = _GATE.match(text)
    if match is None or match[1] not in _METRICS:
        raise UsageError(
            f"{text!r} is not a gate: write a metric ({', '.join(_METRICS)}), < or >, and a limit, like "
            "'p99_ms>+10%' relative to the first report or 'p99_ms>20' in milliseconds"
        )
    sign: Literal["<", ">"] = ">" if match[2] == ">" else "<"
    return Gate(text=text.strip(), metric=match[1], sign=sign, limit=float(match[3]), is_relative=bool(match[4]))


def compare(first: Report, second: Report, gates: Sequence[Gate] = (), *, force: bool = False) -> Comparison:
    """Compare what both reports have in common.

    Raises:
        UsageError: they are of different environments or models and ``force`` is not set, or have nothing in common.
    """
    differences = tuple(_differences(first, second))
    if differences and not force:
        raise UsageError(
            f"the reports are of different environments: {'; '.join(differences)}. They cannot be "
            "compared; --force compares them anyway"
        )
    # By name, without the lengths: how many runs an engine gets depends on how many engines were measured with it.
    known = {(engine.label, result.case.name): result for engine, result in _all(first)}
    lines, matched = [], set()
    for engine, result in _all(second):
        key = (engine.label, result.case.name)
        if key in known:
            matched.add(key)
            lines.append(_line(engine, known[key], result, gates))
    if not lines:
        raise UsageError("the reports have no engine and scenario in common. Run both with the same options")
    return Comparison(
        lines=tuple(lines),
        only_first=tuple(f"{label}, {name}" for label, name in known if (label, name) not in matched),
        only_second=tuple(
            f"{e.label}, {r.case.name}" for e, r in _all(second) if (e.label, r.case.name) not in matched
        ),
        differences=differences,
        invalid_first=first.invalid,
        invalid_second=second.invalid,
    )


def _all(report: Report) -> list[tuple[EngineResult, CaseResult]]:
    return [(engine, result) for engine in report.engines for result in engine.cases]


def _line(engine: EngineResult, first: CaseResult, second: CaseResult, gates: Sequence[Gate]) -> Line:
    line = Line(
        engine=engine.label,
        case=second.case.name,
        first=first,
        second=second,
        p50=ratio_of(first.rounds_ms, second.rounds_ms, percent=50),
        p99=ratio_of(first.rounds_ms, second.rounds_ms, percent=99),
    )
    failed = () if engine.is_bare else tuple(gate.text for gate in gates if _breaks(gate, line))
    return Line(
        engine=line.engine, case=line.case, first=first, second=second, p50=line.p50, p99=line.p99, failed=failed
    )


def _breaks(gate: Gate, line: Line) -> bool:
    """Whether a gate breaks; a relative one only if the interval of the ratio also excludes 1."""
    new = _value(line.second, gate.metric)
    if not gate.is_relative:
        return new > gate.limit if gate.sign == ">" else new < gate.limit
    old = _value(line.first, gate.metric)
    change = (new / old - 1.0) * 100.0
    is_beyond = change > gate.limit if gate.sign == ">" else change < gate.limit
    if gate.metric not in _PERCENTS:
        return is_beyond
    ratio = ratio_of(line.first.rounds_ms, line.second.rounds_ms, percent=_PERCENTS[gate.metric])
    return is_beyond and ratio.is_different


def _value(result: CaseResult, metric: str) -> float:
    if metric == "throughput_hz":
        return result.throughput_hz
    return float(getattr(result.spread, metric))


def _differences(first: Report, second: Report) -> list[str]:
    found = [
        f"{name} is {first.environment.get(name)!r} in one and {second.environment.get(name)!r} in the other"
        for name in _SAME_MACHINE
        if _plain(first.environment.get(name)) != _plain(second.environment.get(name))
    ]
    if first.model.sha256 != second.model.sha256:
        found.append(f"one model is {first.model.sha256[:12]}, the other {second.model.sha256[:12]}")
    return found


def _plain(value: object) -> object:
    """Tuples and lists are the same in JSON."""
    return list(value) if isinstance(value, tuple) else value
